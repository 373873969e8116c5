"""SupSup: a random network that never learns holds a subnetwork for every task; only masks are kept.

Wortsman, Ramanujan, Liu, Kembhavi, Rastegari, Yosinski and Farhadi, "Supermasks in superposition", NeurIPS 2020 (arXiv
2006.14769). Weights W are signed constants, there are no biases, and norm layers have no affine parameters. Task i is
answered by f(x; W * M_i); its mask is learned through scores (:mod:`raycl.models.masked`): the largest of each layer
(``selection: top_k``, edge-popup, equation 2), or all above 0 (``threshold``, as in the authors' MNIST experiments). Of
top_k every layer keeps the same share by default; ``sparsity: erdos_renyi`` is that of the authors' CIFAR and ImageNet
settings, in which a layer between i and o units or channels keeps min(1/2, scale * (i + o) / weights), with scales of 1
to 32: large layers keep less.
Once its task is over, a mask stays as one bit a weight, and the scores go. W follows from a seed, and is not part of a
checkpoint.

Where the task id is hidden, it is inferred from the mixture of all masks learned so far (section 3.3,
:mod:`raycl.learning.superposition`), by entropy or by the superfluous units G, or, as a reference, from the least
entropy among all tasks, one by one (``inference: linear``). ``inference_rows`` of the same task make a decision.

Departures:
- A subnetwork has the units of its own task, as many as the stream's largest task has, and ``extra_outputs``; they are
  the same units of W for all tasks. An answer is sought among the task's own units, not among the superfluous ones.
- Batch norm keeps running statistics of each task (counted in the state's bytes), which are mixed as the masks are; the
  gradient is that of the masks alone. The authors' networks without stored statistics look at the test batch instead.
- No scores or masks are handed on from task to task (the paper's transfer).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from raycl.learning.own_units import own_head_only, require_own_units
from raycl.learning.superposition import binary, entropy, one_shot, superfluous, warm_up
from raycl.learning.task_inference import (
    CERTAINTY,
    COMPARED_AS_SHARES,
    log_largest_entropy,
    most_certain,
    placed,
    shared_log_entropy,
    undecidable,
)
from raycl.models.masked import (
    MaskedWeights,
    RunningStatistics,
    above,
    erdos_renyi,
    fix_signed_constants,
    largest,
)
from raycl.spec.needs import NEW_OPTIMIZERS, Idle, Need
from raycl.spec.options import Count, Fraction, Later, Positive
from raycl.spec.revisions import Change
from raycl.strategies.base import Context, Losses, Strategy, StrategyConfig, TaskData, Trainable
from raycl.streams.scenario import Scenario
from raycl.streams.task import Batch

INFERENCE_NUMBERS = 2**25
"""Numbers held at once by task inference (128 MB each): unpacked masks, and gradients of decisions side by side."""


class SupSupConfig(StrategyConfig):
    """How masks are found, and how a hidden task id is."""

    search_space: ClassVar[dict[str, Any]] = {"kept_fraction": {"uniform": [0.1, 0.5]}}

    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(
            ("inference", "objective", "inference_rows"),
            "the task id is given",
            lambda at: at.stream.scenario == "task",
        ),
        Idle(("kept_fraction",), "only selection: top_k keeps a share", lambda at: at.options.selection != "top_k"),
        Idle(("sparsity",), "only selection: top_k keeps a share", lambda at: at.options.selection != "top_k"),
        Idle(("kept_fraction",), "sparsity: erdos_renyi goes by its scale", lambda at: at.options.erdos_renyi),
        Idle(("erdos_renyi_scale",), "only sparsity: erdos_renyi has a scale", lambda at: not at.options.erdos_renyi),
    )

    selection: Literal["top_k", "threshold"] = Field(
        "top_k", description="a mask keeps the largest scores of each layer, or all above 0 (about half; faster)"
    )
    kept_fraction: Annotated[Fraction, Field(gt=0)] = Field(
        0.5, description="of top_k: share of each layer's weights that a mask keeps (the authors' sparsity)"
    )
    sparsity: Annotated[Literal["uniform", "erdos_renyi"], Later()] = Field(
        "uniform",
        description="of top_k: the same share of each layer, or less of larger ones, as for CIFAR in the paper",
    )
    erdos_renyi_scale: Annotated[Positive, Later()] = Field(
        8.0,
        description="of erdos_renyi: a layer keeps min(1/2, scale * (inputs + outputs) / weights); published: 1 to 32",
    )
    extra_outputs: Annotated[int, Field(ge=0, le=65_536)] = Field(
        90, description="superfluous output units, which no label names"
    )
    inference: Literal["one_shot", "binary", "linear"] = Field(
        "one_shot", description="of a hidden task id: one gradient, one for each halving, or every task in turn"
    )
    objective: Literal["entropy", "G"] = Field("entropy", description="what inference minimises; G: superfluous units")
    inference_rows: Count = Field(1, description="rows, known to be of one task, that a decision is made from")

    @property
    def erdos_renyi(self) -> bool:
        return self.selection == "top_k" and self.sparsity == "erdos_renyi"

    @model_validator(mode="after")
    def _g_needs_superfluous_units(self) -> SupSupConfig:
        if self.objective == "G" and not self.extra_outputs:
            raise ValueError("objective G looks at superfluous units; set extra_outputs, such as 90, or use entropy")
        if self.objective == "G" and self.inference == "linear":
            raise ValueError("linear inference compares entropies; use objective entropy, or one_shot or binary")
        return self


class SupSup(Strategy):
    """Find a subnetwork of a random network for every task."""

    Config = SupSupConfig
    between_tasks = ("kept_fraction",)
    diagnosable: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (own_head_only("a mask"), CERTAINTY)
    ignores: ClassVar[tuple[Idle, ...]] = (NEW_OPTIMIZERS,)
    idle_rows = "never"
    paper: ClassVar[str] = "Wortsman et al. 2020, Supermasks in superposition (arXiv 2006.14769)"
    zero_shot: ClassVar[bool] = False
    pretrained: ClassVar[bool] = False
    changes: ClassVar[tuple[Change, ...]] = (COMPARED_AS_SHARES,)

    config: SupSupConfig

    def __init__(self, config: SupSupConfig, context: Context) -> None:
        super().__init__(config, context)
        scenario = context.scenario
        require_own_units(scenario, "a mask")
        self.inference_batch = 1 if scenario.task_given else config.inference_rows
        if not scenario.task_given and config.inference != "linear":
            warm_up()
        self._start = context.generator.start("scores")
        self._classes = max(scenario.sizes)
        self.network.grow_head(self._classes + config.extra_outputs)
        self.masked = MaskedWeights(self.network)
        self.statistics = RunningStatistics(self.network)
        self.seed = int(torch.randint(2**63 - 1, (), generator=context.generator.start("fixed_weights")))
        fix_signed_constants(self.network, self.seed)
        self.scores: dict[str, nn.Parameter] = {}  # of the task being learned
        self.bits: list[Tensor] = []  # of each task learned: its mask, and running statistics [statistics.numel]
        self._normed: list[Tensor] = []
        self._unpacked: Tensor | None = None  # what _vectors() gives, where all tasks fit into one group

    @classmethod
    def unfit(cls, config: SupSupConfig, scenario: Scenario) -> str | None:
        """Masks are told apart by how certain they make the network."""
        return undecidable(scenario)

    # -- growth and optimisation -------------------------------------------------------------------------------

    def grow(self, task: int) -> None:
        """Scores of its own for every task, drawn as a layer's weights would be: nothing of an old task is in them."""
        self.task = task
        self._unpacked = None  # of the last measurement: room for this task
        self.statistics.reset()
        self.scores = {}
        for name, shape in self.masked.shapes.items():
            bound = 1 / math.sqrt(shape[1:].numel())  # the inputs of a unit
            scores = torch.empty(shape).uniform_(-bound, bound, generator=self._start)
            self.scores[name] = nn.Parameter(scores.to(self.context.device))

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        """A new optimiser for every task's scores: no moments are handed on."""
        return {f"scores {task}": Trainable.of(list(self.scores.values()))}

    def end_task(self, task: int, data: TaskData) -> None:
        self._settle()

    def _settle(self) -> None:
        """Keep the mask of the task being learned, and forget its scores."""
        self.bits.append(self.masked.pack(self._decided()))
        self._normed.append(self.statistics.flat())
        self._unpacked = None
        self.scores = {}

    # -- the update --------------------------------------------------------------------------------------------

    def _decided(self) -> dict[str, Tensor]:
        """The mask that the scores stand for."""
        if self.config.selection == "threshold":
            return {name: above(scores, 0.0) for name, scores in self.scores.items()}
        return {name: largest(scores, self._kept(scores)) for name, scores in self.scores.items()}

    def _kept(self, scores: Tensor) -> float:
        """The share of a layer's weights that a mask keeps."""
        if self.config.sparsity == "uniform":
            return self.config.kept_fraction
        return erdos_renyi(scores.shape, self.config.erdos_renyi_scale)

    def loss(self, batch: Batch) -> Losses:
        """Cross-entropy over all units of the subnetwork, the superfluous ones included."""
        weights = self.masked.apply(self._decided())
        logits = functional_call(self.network, weights, (batch.x,))
        y = batch.y - self.context.scenario.offset(self.task)  # every subnetwork counts its units from 0
        return {"task": self.label_loss(logits, y)}

    # -- prediction --------------------------------------------------------------------------------------------

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        """Logits ``[batch, outputs so far]``: those of one task's units, minus infinity elsewhere.

        A task that is being learned answers with the mask that its scores stand for now.
        """
        if not self.scores:
            return self._answer(x, task)
        kept = self.bits, self._normed, self.scores
        try:
            self.bits, self._normed = list(self.bits), list(self._normed)
            self._settle()
            return self._answer(x, task)
        finally:
            self.bits, self._normed, self.scores = kept
            self._unpacked = None

    def _answer(self, x: Tensor, task: int | None) -> Tensor:
        """:meth:`predict` with the masks that are kept."""
        if task is not None:
            chosen = torch.full((len(x),), task, device=x.device)
            logits = self._logits(task, x)
        elif self.config.inference == "linear":
            chosen, logits = self._most_certain(x)
        else:
            chosen = self.infer_task(x)
            logits = x.new_empty(len(x), self.network.head.outputs)  # every row is of one task, so all are filled
            for found in chosen.unique().tolist():
                rows = chosen == found
                logits[rows] = self._logits(found, x[rows])
        own = logits[:, : self._classes]  # without the superfluous units
        return placed(own, chosen, self.context.scenario, self.task)

    def infer_task(self, x: Tensor) -> Tensor:
        """int64 ``[batch]``: the task that each ``inference_rows`` rows, in order, are taken to belong to."""
        if self.config.inference == "linear":
            return self._most_certain(x)[0]
        rows = self.config.inference_rows
        whole = len(x) // rows * rows
        complete, rest = x[:whole].unflatten(0, (-1, rows)), x[None, whole:]  # [decisions, rows, *] each
        return torch.cat(
            [self._decide(part).repeat_interleave(part.shape[1]) for part in (complete, rest) if part.numel()]
        )

    def _decide(self, x: Tensor) -> Tensor:
        """The task of each decision, int64 ``[decisions]``, from rows ``[decisions, rows, *]``."""
        objective = entropy if self.config.objective == "entropy" else superfluous(self._classes)
        method = one_shot if self.config.inference == "one_shot" else binary
        chosen = [
            method(len(self.bits), self._vectors, self._forward, objective, part)
            for part in x.split(self._at_once())  # binary has a gradient [numel] of each decision
        ]
        return torch.cat(chosen)

    def _at_once(self) -> int:
        """How many vectors of masked weights and statistics are held side by side."""
        return max(1, INFERENCE_NUMBERS // (self.masked.numel + self.statistics.numel))

    def _vectors(self) -> Iterator[Tensor]:
        """Masked weights and statistics of the tasks learned, ``[tasks of the group, numel]``, group after group.

        A group of all tasks is kept: inference asks for it again and again.
        """
        if self._unpacked is not None:
            yield self._unpacked
            return
        weights, size = self.masked.flat(), self._at_once()
        for first in range(0, len(self.bits), size):
            tasks = slice(first, first + size)
            masks = self.masked.unpack(torch.stack(self.bits[tasks]))  # [tasks of the group, weights]
            statistics = torch.stack(self._normed[tasks])
            group = torch.cat([masks * weights, statistics], dim=1)
            if len(group) == len(self.bits):
                self._unpacked = group
            yield group

    def _forward(self, vector: Tensor, x: Tensor) -> Tensor:
        """Masked weights and statistics ``[numel]``, and rows ``[rows, *]`` -> logits ``[rows, units]``."""
        weights, normed = vector.split([self.masked.numel, self.statistics.numel])
        # the gradient is that of the masks alone
        state = {**self.masked.split(weights), **self.statistics.split(normed.detach())}
        logits: Tensor = functional_call(self.network, state, (x,))
        return logits

    def _most_certain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The tasks ``[batch]`` of least entropy, and their logits ``[batch, units]``."""
        learned = len(self.bits)
        logits = (self._logits(task, x)[None] for task in range(learned))
        largest = log_largest_entropy(self.context.scenario.sizes[:learned])
        return most_certain(logits, shared_log_entropy(self.config.inference_rows), largest)

    def _logits(self, task: int, x: Tensor) -> Tensor:
        """Logits ``[batch, units]`` of a task's subnetwork."""
        masks = self.masked.split(self.masked.unpack(self.bits[task]))
        state = {**self.masked.apply(masks), **self.statistics.split(self._normed[task])}
        logits: Tensor = functional_call(self.network, state, (x,))
        return logits

    # -- size and state ----------------------------------------------------------------------------------------

    def active_logits(self) -> str:
        """A mask has its own task's head only."""
        return "all" if self.context.scenario.shared else "own"

    def parameter_count(self) -> int:
        """A score for every weight."""
        return self.masked.numel

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "masks": list(self.bits), "statistics": list(self._normed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.context.device
        self.seed = state["seed"]
        fix_signed_constants(self.network, self.seed)
        self.bits = [bits.to(device) for bits in state["masks"]]
        self._normed = [normed.to(device) for normed in state["statistics"]]
        self._unpacked = None
        self.scores = {}  # growing has drawn some, and no task is being learned
