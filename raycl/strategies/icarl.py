"""iCaRL: exemplars chosen by herding, distillation of sigmoid outputs, and the nearest mean of exemplars as answer.

Rebuffi, Kolesnikov, Sperl and Lampert, "iCaRL: incremental classifier and representation learning", CVPR 2017 (arXiv
1611.07725), algorithms 1 to 5. A task with the new classes s..t is learned on one shuffled union of its data and all
exemplars, with one sigmoid an output unit. For every row of the union, whatever its label, the targets q of the old
units are the outputs of the network as it was before the task; those of the new units come from the label:

    loss = - mean over rows [ sum over y = s..t of  delta_(y = y_i) log g_y + delta_(y != y_i) log(1 - g_y)
                            + sum over y < s    of  q_i^y           log g_y + (1 - q_i^y)      log(1 - g_y) ]

Afterwards every class keeps m = floor(K / t) exemplars (K is ``memory.capacity``): old classes the first m of their
ranking, new ones the first m that herding (:mod:`raycl.learning.herding`) ranks among all of their data. A row x is
answered by the class whose exemplars' mean lies nearest to phi(x), all features and means at unit length, the means
taken anew with the features of the network as it is (``classifier: nme``).

Ablations of the paper: ``classifier: network`` answers by the largest output (hybrid 1), ``distillation: false`` takes
the labels for old units too (hybrid 2), both together are hybrid 3; ``exemplars: random`` is no ablation of the paper.
``memory.unit: class`` keeps ``capacity`` exemplars of each class for good; ``memory.mix`` says how the union is mixed.

Departures:
- ``temperature`` above 1 softens the targets q, which then differ from what the network says when the task begins. The
  paper has no such thing; the code behind van de Ven and Tolias 2019 (arXiv 1904.07734) has 2.
- The loss is a sum over units, as in algorithm 3; the authors' code, and several libraries, take the mean over them,
  which divides the gradient by their number.
- Units of classes that have not come are not trained, as in algorithm 3; the authors' code trains them towards 0, which
  ``active_logits: all`` does (200 exemplars of Split MNIST, one epoch: 77 % with ``seen``, 71 % with ``all``).
- m is rounded down, as in the paper; the authors' code rounds up, and so may hold more than K.
- No weight is decayed and no learning rate lowered but by ``training``; the sweep file says for how long a task is
  learned.
- With a task id (not in the paper) only the units of the task can win; training is the same.
- Features are those of un-augmented rows in evaluation mode, both for exemplars and for their means; the authors add
  those of mirrored images. So are the targets, but in augmented streams, where each row has those of what is seen.
- ``memory.combine`` and ``insert`` do not apply; of the softmax's ``active_logits`` there are ``seen`` and ``all``.

Targets are computed once a task, unless the stream augments; then the previous network answers in every update.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.learning.class_statistics import ClassStatistics
from raycl.learning.distillation import frozen_copy
from raycl.learning.herding import herding, unit_length
from raycl.memory.buffer import everything
from raycl.models.network import Network, frozen_statistics
from raycl.spec.needs import Idle, Need
from raycl.spec.options import Positive
from raycl.strategies.base import Context, Losses, Phase, Rows, Source, Strategy, StrategyConfig, TaskData, nested_bytes
from raycl.strategies.rehearsal import REHEARSES
from raycl.streams.task import Batch

PASS_BATCH = 1000
"""Rows that go through the network at once where nothing is learned from them."""


class ICaRLConfig(StrategyConfig):
    """The parts that can be taken away; the sweep's ``memory`` block says how many exemplars there are."""

    search_space: ClassVar[dict[str, Any]] = {"classifier": {"choice": ["nme", "network"]}}

    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(("temperature",), "without distillation the targets are labels", lambda at: not at.options.distillation),
    )

    classifier: Literal["nme", "network"] = Field(
        "nme", description="what answers: the nearest mean of exemplars, or the network's largest output"
    )
    exemplars: Literal["herding", "random"] = Field("herding", description="how a class ranks its examples")
    distillation: bool = Field(
        True, description="targets of old units: what the network said before the task, or the labels"
    )
    temperature: Positive = Field(
        1.0, description="divides the outputs of old units before their sigmoids are taken as targets"
    )


class ICaRL(Strategy):
    """Incremental classifier and representation learning."""

    Config = ICaRLConfig
    smooths_labels: ClassVar[bool] = False
    acts_from = {"distillation": 2, "temperature": 2, "memory.mix": 2}
    between_tasks = ("distillation", "temperature")
    one_pass: ClassVar[bool] = False
    offers: ClassVar[Literal["batch", "task"]] = "task"
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "model.head",
            "must give every class an output unit of its own; set per_task",
            lambda at: not at.shared_units,
        ),
        Need(
            "training.active_logits",
            "icarl trains the units of all classes seen, or of all, by sigmoids; use auto, seen or all",
            lambda at: at.training.active_logits in ("auto", "seen", "all"),
        ),
        Need(
            "memory.selection",
            "icarl keeps the first rows of each class's ranking; use auto, and say how to rank by exemplars",
            lambda at: at.selection == "ranked",
        ),
        Need(
            "memory.capacity",
            "must be at least the number of classes that it counts for; enlarge it, or set memory.unit: class",
            lambda at: at.fits_a_row_of_every_class,
        ),
    )
    ignores: ClassVar[tuple[Idle, ...]] = REHEARSES
    scenarios: ClassVar[frozenset[str]] = frozenset({"task", "class"})
    uses_memory: ClassVar[bool] = True
    selection: ClassVar[str] = "ranked"
    idle_rows = "never"
    paper: ClassVar[str] = "Rebuffi et al. 2017, iCaRL (arXiv 1611.07725)"

    config: ICaRLConfig

    def __init__(self, config: ICaRLConfig, context: Context) -> None:
        super().__init__(config, context)
        self.means = torch.zeros(0, self.network.head.features, device=context.device)
        self._teacher: Network | None = None
        self._union: Rows | None = None

    # -- the task ----------------------------------------------------------------------------------------------

    def learning_units(self, task: int) -> Sequence[range] | None:
        """Old units have targets too."""
        return None

    def begin_task(self, task: int, data: TaskData) -> None:
        if not self._distills:
            return
        if self.context.augments:
            self._teacher = frozen_copy(self.network)
        else:
            self._union = self._with_targets(data)

    @property
    def _new(self) -> range:
        """The units that the task adds; the units before them are old."""
        return self.context.scenario.units(self.task)

    @property
    def _distills(self) -> bool:
        return self._new.start > 0 and self.config.distillation

    def _quota(self) -> int:
        """m, the exemplars of each class."""
        memory = self.context.memory_config
        return memory.examples // {"total": self._new.stop, "task": len(self._new), "class": 1}[memory.unit]

    def _with_targets(self, data: TaskData) -> Rows:
        """The task's rows and the exemplars, with the answers of the network as it is."""
        exemplars = self.replayed(everything(self.memory))
        self.context.count_work(0, len(exemplars))
        union = Batch.cat([*data.batches(PASS_BATCH), exemplars])
        with frozen_statistics(self.network), torch.no_grad():
            targets = torch.cat([self._answers(self.network, x) for x in union.x.split(PASS_BATCH)])
        return Rows(union.x, union.y, union.task, union.replayed, {"targets": targets})

    def _answers(self, network: Network, x: Tensor) -> Tensor:
        """What a network says of the old units, in [0, 1], ``[batch, old units]``."""
        logits: Tensor = network(x)
        return (logits[:, : self._new.start] / self.config.temperature).sigmoid()

    def phases(self, task: int) -> Sequence[Phase]:
        return (Phase("train", self.length(), self._union or Source.CURRENT | Source.MEMORY),)

    def train(self, mode: bool) -> None:
        super().train(mode)
        if self._teacher is not None:
            self._teacher.eval()

    def end_task(self, task: int, data: TaskData) -> None:
        self._teacher = self._union = None
        table = data.table()
        rows = self._chosen(data, table["label"])
        self.memory.add({name: column[rows] for name, column in table.items()})
        self.memory.trim()
        if self.config.classifier == "nme":
            self.means = self._exemplar_means()

    # -- the update --------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        new = self._new
        logits = self.network(batch.x)
        labels = (batch.y[:, None] == torch.arange(logits.shape[1], device=batch.y.device)).to(logits.dtype)
        losses = {"task": _cross_entropy(logits[:, new.start :], labels[:, new.start :])}
        if new.start:
            targets = self._targets(batch) if self._distills else labels[:, : new.start]
            losses["distillation"] = _cross_entropy(logits[:, : new.start], targets)
        return losses

    def _targets(self, batch: Batch) -> Tensor:
        """q, float ``[batch, old units]``."""
        if self._teacher is None:
            return batch.columns["targets"]
        with torch.no_grad():
            return self._answers(self._teacher, batch.x)

    # -- exemplars ---------------------------------------------------------------------------------------------

    def _chosen(self, data: TaskData, labels: Tensor) -> Tensor:
        """The best rows of each new class, int64 ``[classes * m]``, class by class and best first."""
        count, ranked = self._quota(), []
        features = self._features(batch.x for batch in data.batches(PASS_BATCH))
        for unit in self._new:
            rows = (labels == unit).nonzero().flatten()
            if self.config.exemplars == "herding":
                best = herding(features[rows], count)
            else:
                best = torch.randperm(len(rows), generator=self.context.generator("exemplars"))[:count].to(rows.device)
            ranked.append(rows[best])
        return torch.cat(ranked)

    def _features(self, images: Iterable[Tensor]) -> Tensor:
        """phi of batches of network inputs, float ``[rows, features]``, at unit length."""
        with frozen_statistics(self.network), torch.no_grad():
            return unit_length(torch.cat([self.network.backbone(x) for x in images]))

    def _exemplar_means(self) -> Tensor:
        """The mean of each class's exemplars, float ``[classes, features]``, at unit length."""
        context, rows = self.context, everything(self.memory)
        images = rows["image"].split(PASS_BATCH)
        context.count_work(0, len(rows["label"]))
        features = self._features(context.normalize(image.to(context.device)) for image in images)
        statistics = ClassStatistics(features.shape[1], False, context.device)
        statistics.grow(self._new.stop)
        statistics.add(features, rows["label"].to(context.device))
        return unit_length(statistics.means()).float()

    # -- prediction and state ----------------------------------------------------------------------------------

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        """Outputs of the network, or minus half the squared distances to the means up to what all classes share."""
        if self.config.classifier == "network":
            return super().predict(x, task)
        features = unit_length(self.network.backbone(x))
        answers = features.new_full((len(x), self.network.head.outputs), float("-inf"))
        answers[:, : len(self.means)] = features @ self.means.T - self.means.square().sum(1) / 2
        return answers

    @property
    def ignores_task(self) -> bool:
        return True

    def active_logits(self) -> str:
        """Units are trained one by one, by sigmoids."""
        return "all" if self.context.scenario.policy == "all" else "seen"

    def state_bytes(self) -> int:
        """The previous network, of which a task may keep the answers alone, is charged as a copy."""
        previous = nested_bytes(self.network.state_dict()) if self._distills else 0
        return super().state_bytes() + previous

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "means": self.means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.means = state["means"].to(self.context.device)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoids, summed over units, mean over rows, ``[]``."""
    total = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return total / len(logits)
