"""Progress & Compress: a column learns each task with the help of a knowledge base, which is then taught by it.

Schwarz et al., "Progress & Compress: a scalable framework for continual learning", ICML 2018 (arXiv 1805.06370). Both
are networks of the sweep's model.

    progress: the active column learns the task by cross-entropy. It reads the features of the knowledge base, which
        stays as it is, through layer-wise adaptors (equation 1, the gated form of :mod:`raycl.models.columns`).
    compress: the active column stays as it is, and the knowledge base learns its answers to the task's rows, held by
        online EWC to what it knew: KL(active || base) + penalty / 2 * F (theta - theta_(t-1))^2, F <- online_decay * F
        + F_t (section 3.2). F_t is the Fisher information of the base on the task, scaled to a Euclidean norm of 1, so
        that tasks count equally.

Answers are the knowledge base's. No part grows with the number of tasks, but for the base's head where tasks have units
of their own; the active column has as many units as the largest task, which are drawn anew for every such task.

Departures, or choices that the paper leaves open:
- In the first task the adaptors are idle, since the base knows nothing yet.
- While the base learns, the column that teaches it goes on to read the base as it was before, in a copy that lasts for
  the phase; it would drift with its student otherwise.
- The KL is taken at ``temperature`` T and multiplied by T^2, so that T does not move its weight against the penalty.
- The paper's second factor online_decay, inside the penalty, is part of ``penalty``, which is followed by its gradient
  or, with ``penalty_step: proximal``, in closed form after the optimiser's step (:mod:`raycl.learning.quadratic`).
- Laterals reach the head too. Running statistics of the base are not protected.
- Compression lasts as long as learning did by default, and comes on top of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.learning.distillation import Softmaxes, distillation, frozen_copy
from raycl.learning.fisher import CLOSED_FORM, FISHER_BATCH, diagonal_fisher
from raycl.learning.own_units import competing_units, own_head_only, require_own_units
from raycl.learning.quadratic import PROXIMAL, PenaltyStep, Quadratic, Strength, require_finite
from raycl.models.columns import Column, GatedAdapter, Taps
from raycl.spec.needs import Need
from raycl.spec.options import Count, Fraction, Positive, Width
from raycl.spec.revisions import Change
from raycl.strategies.base import (
    Context,
    Losses,
    Phase,
    Position,
    Strategy,
    StrategyConfig,
    TaskData,
    Trainable,
)
from raycl.streams.task import Batch


class ProgressCompressConfig(StrategyConfig):
    """How the active column learns, and how the knowledge base is taught and held."""

    search_space: ClassVar[dict[str, Any]] = {
        "penalty": {"loguniform": [1, 1e5]},
        "online_decay": {"uniform": [0.9, 1.0]},
        "temperature": {"choice": [1.0, 2.0, 4.0]},
    }

    penalty: Strength = Field(
        100.0, description="lambda of online EWC while compressing; search 1 to 1e5 on a log scale"
    )
    penalty_step: PenaltyStep = "gradient"
    online_decay: Fraction = Field(1.0, description="gamma: what is kept of the Fisher information at each task")
    temperature: Positive = Field(2.0, description="of both softmaxes while compressing")
    compress_length: Positive = Field(1.0, description="length of compression as a share of training's")
    reinit: bool = Field(False, description="draw the active column anew for every task; else it goes on")
    adaptor_dim: Width | None = Field(
        None, description="units of an adaptor; default: a quarter of the layer's outputs, at least 8"
    )
    fisher: Literal["exact", "sampled"] = Field("exact", description="labels of F: expected over all, or one drawn")
    fisher_examples: Count | None = Field(None, description="training examples per task, drawn at random; default: all")


class ProgressCompress(Strategy):
    """Learn in an active column, then compress what it learned into the network that answers."""

    Config = ProgressCompressConfig
    keeps_best: ClassVar[bool] = False
    acts_from = {"penalty": 2, "penalty_step": 2, "fisher": 2, "fisher_examples": 2, "online_decay": 3}
    between_tasks = ("penalty", "penalty_step", "fisher", "fisher_examples", "online_decay", "temperature")
    one_pass: ClassVar[bool] = False
    diagnosable: ClassVar[bool] = False
    passes: ClassVar[tuple[str, ...]] = ("_progress_loss", "_compress_loss", "predict")
    needs: ClassVar[tuple[Need, ...]] = (own_head_only("the active column"),)
    scenarios: ClassVar[frozenset[str]] = frozenset({"task", "domain"})
    changes: ClassVar[tuple[Change, ...]] = (CLOSED_FORM,)
    paper: ClassVar[str] = "Schwarz et al. 2018, Progress & Compress (arXiv 1805.06370)"

    config: ProgressCompressConfig

    def __init__(self, config: ProgressCompressConfig, context: Context) -> None:
        super().__init__(config, context)
        require_own_units(context.scenario, "the active column")
        self.knowledge = Column(self.network)
        self.active = self._new_active()
        self.past = Quadratic()
        self._learner = self._source = self.knowledge

    def _new_active(self) -> Column:
        context, dim = self.context, self.config.adaptor_dim
        network = context.new_network()
        network.grow_head(max(context.scenario.sizes))
        generator = context.generator.start("network")
        return Column(network, lambda link: GatedAdapter(link, dim, generator)).to(context.device)

    # -- the task ----------------------------------------------------------------------------------------------

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        """The active column has a new optimiser for every task: a part of it is drawn anew, or was idle before."""
        parts = {f"active {task}": self.active, "knowledge": self.network}
        return {name: Trainable.of(part.parameters()) for name, part in parts.items()}

    def learning_rows(self, task: int) -> Mapping[nn.Parameter, Sequence[range]]:
        """The active column has as many units as the largest task."""
        units = (range(len(competing_units(self.context.scenario, task))),)
        return {**super().learning_rows(task), **dict.fromkeys(self.active.network.head.parameters(), units)}

    def begin_task(self, task: int, data: TaskData) -> None:
        if task and self.config.reinit:
            self.active.load_state_dict(self._new_active().state_dict())
        elif task and not self.context.scenario.shared:
            self.active.network.head.load_state_dict(self._new_active().network.head.state_dict())

    def phases(self, task: int) -> Sequence[Phase]:
        length = self.length()
        shorter = length.times(self.config.compress_length)
        return (
            Phase("progress", length, step=self._progress, start=self._begin_progress),
            Phase("compress", shorter, step=self._compress, start=self._begin_compress),
        )

    def _begin_progress(self) -> None:
        self._learner, self._source = self.active, self.knowledge

    def _begin_compress(self) -> None:
        self._learner, self._source = self.knowledge, Column(frozen_copy(self.network))

    def train(self, mode: bool) -> None:
        """Only the part that learns leaves evaluation mode."""
        for part in (self.knowledge, self.active):
            part.train(mode and part is self._learner)

    def end_task(self, task: int, data: TaskData) -> None:
        self._source = self.knowledge
        config, scenario = self.config, self.context.scenario
        if not config.penalty:
            return

        def active(batch: Batch) -> Tensor:
            return scenario.mask(batch.task, scenario.policy, task)

        batches, generator = data.batches(FISHER_BATCH, config.fisher_examples), self.context.generator("fisher")
        fisher = diagonal_fisher(self.network, batches, active, config.fisher, generator)
        require_finite(
            fisher, f"progress_compress: the Fisher information after task {task}", config.penalty, config.penalty_step
        )
        self.past.replace(_normalised(fisher), dict(self.network.named_parameters()), config.online_decay)

    # -- the update --------------------------------------------------------------------------------------------

    def _progress(self, batch: Batch, at: Position) -> Losses:
        """The active column learns the labels."""
        loss = self._progress_loss(batch)
        self.context.optimizers.zero_grad()
        loss.backward()
        self.context.optimizers.step(f"active {self.task}")
        return {"task": loss.detach()}

    def _progress_loss(self, batch: Batch) -> Tensor:
        labels = batch.y - self.context.scenario.offset(self.task)
        return self.label_loss(self._answers(batch.x), labels)

    def _compress_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            target = self._answers(batch.x)
        units = self._units
        answers = self.network(batch.x)[:, units.start : units.stop]
        groups = Softmaxes([range(len(units))], target.device)
        return distillation(answers, target, groups, self.config.temperature, squared=True)

    def _compress(self, batch: Batch, at: Position) -> Losses:
        """The knowledge base learns the active column's answers."""
        config, optimizers, loss = self.config, self.context.optimizers, self._compress_loss(batch)
        optimizers.zero_grad()
        loss.backward()
        base = dict(self.network.named_parameters())
        if self._pulls("gradient"):
            self.past.add_gradients(base, config.penalty)
        optimizers.step("knowledge")
        if self._pulls("proximal"):
            self.past.pull(base, config.penalty, optimizers)
        return {"distillation": loss.detach()}

    def _pulls(self, step: PenaltyStep) -> bool:
        """Whether the base is held, in this way."""
        return bool(self.config.penalty and self.past.importance) and self.config.penalty_step == step

    def remedy(self) -> str:
        return f"{super().remedy()}, or {PROXIMAL}" if self._pulls("gradient") else super().remedy()

    @property
    def _units(self) -> range:
        return competing_units(self.context.scenario, self.task)

    def _answers(self, x: Tensor) -> Tensor:
        """Logits of the active column ``[batch, competing units]``."""
        taps: Taps = {}
        if self.task:
            with torch.no_grad():
                taps = self._source.taps(x, {})
        logits: Tensor = self.active(x, taps)
        return logits[:, : len(self._units)]

    # -- state -------------------------------------------------------------------------------------------------

    def parameter_count(self) -> int:
        return super().parameter_count() + sum(p.numel() for p in self.active.parameters())

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "active": self.active.state_dict(), "past": self.past.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.active.load_state_dict(state["active"])
        self.past.load_state_dict(state["past"], self.context.device)


def _normalised(fisher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scaled to a Euclidean norm of 1 over all parameters; zero stays zero.

    Of a base that is certain of its answers the squares of F underflow; F is then taken in units of its largest entry.
    """
    norm = torch.stack([values.norm() for values in fisher.values()]).norm()
    if norm.square() >= sum(values.numel() for values in fisher.values()) * torch.finfo(norm.dtype).tiny:
        return {name: values / norm for name, values in fisher.items()}
    largest = torch.stack([values.max() for values in fisher.values()]).max()
    return _normalised({name: values / largest for name, values in fisher.items()}) if largest else dict(fisher)
