"""Ensemble: a network of its own for every task. Nothing is forgotten and nothing is shared.

"SepN" of van de Ven and Tolias, "Three scenarios for continual learning", 2019 (arXiv 1904.07734); "independent" of
Lopez-Paz and Ranzato, "Gradient episodic memory", NeurIPS 2017 (arXiv 1706.08840), with ``start: previous`` for their
finetune. A network has the units of its own task only, and once its task is over no bit of it moves. Where the task id
is given it selects the network; otherwise, row by row, the most certain network answers, or all of them on average.

By default the method costs T networks. ``match_parameters`` shrinks them, so that all T together have no more
parameters than one network of the sweep's model: T is then read from the stream, before later tasks have come.

Certainty is compared by the rule of :mod:`raycl.learning.task_inference`: as a share of the largest possible
uncertainty, since a head of two classes would otherwise win images of a task of five. Tasks of one class are refused
where the id is hidden. ``average`` compares logits as they are: each head's are free up to a constant.

Departures: the papers know the id at test; the selectors are Hendrycks and Gimpel's (2017, arXiv 1610.02136) and the
entropy of von Oswald et al. (2020, arXiv 1906.00695). van de Ven and Tolias give each network 100 units for 400 of a
shared one (Split MNIST); ``match_parameters`` finds 106. With ``start: previous`` a new task's head is drawn anew
unless tasks share their units. ``reset_optimizer: false`` means nothing here: moments belong to a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from raycl.errors import Problem, SpecError
from raycl.learning.own_units import own_head_only, require_own_units
from raycl.learning.task_inference import (
    CERTAINTY,
    COMPARED_AS_SHARES,
    largest_probability,
    least_entropy,
    undecidable,
)
from raycl.models.network import Network
from raycl.models.width import matching_width, parameters_with_head
from raycl.spec.needs import NEW_OPTIMIZERS, Idle, Need
from raycl.spec.revisions import Change
from raycl.strategies.base import Context, Losses, Strategy, StrategyConfig, TaskData, Trainable
from raycl.streams.scenario import Scenario
from raycl.streams.task import Batch


class EnsembleConfig(StrategyConfig):
    """How large the networks are, where each starts, and which one answers."""

    search_space: ClassVar[dict[str, Any]] = {"start": {"choice": ["fresh", "previous"]}}

    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(("selector",), "the task id is given", lambda at: at.stream.scenario == "task"),
        NEW_OPTIMIZERS,
    )

    selector: Literal["entropy", "max_softmax", "average"] = Field(
        "entropy",
        description="where the task id is hidden: the network of least entropy, or of the largest softmax probability "
        "(both relative to the number of its classes); or the average of the logits over the networks with the unit",
    )
    match_parameters: bool = Field(
        False, description="shrink each network, so that all have together no more parameters than the sweep's model"
    )
    start: Literal["fresh", "previous"] = Field(
        "fresh", description="where a network starts: newly drawn, or from the network of the task before"
    )


class Ensemble(Strategy):
    """Train a new network on every task, and keep the old ones as they are."""

    Config = EnsembleConfig
    acts_from = {"start": 2, "selector": 2}
    between_tasks = ("start",)
    stability = ()
    diagnosable: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (own_head_only("each network of an ensemble"), CERTAINTY)
    zero_shot: ClassVar[bool] = False
    idle_rows = "never"
    paper: ClassVar[str] = "van de Ven and Tolias 2019, Three scenarios for continual learning (arXiv 1904.07734)"
    changes: ClassVar[tuple[Change, ...]] = (COMPARED_AS_SHARES,)

    config: EnsembleConfig

    def __init__(self, config: EnsembleConfig, context: Context) -> None:
        super().__init__(config, context)
        scenario = context.scenario
        require_own_units(scenario, "each network of an ensemble")
        self.networks: list[Network] = []
        self._width = self._matching_width() if config.match_parameters else 1.0

    @classmethod
    def unfit(cls, config: EnsembleConfig, scenario: Scenario) -> str | None:
        """A single unit is always certain, and its logit, which an average takes, never learns."""
        return undecidable(scenario)

    # -- growth and optimisation -------------------------------------------------------------------------------

    def _matching_width(self) -> float:
        """The largest factor on widths at which T networks have no more parameters than one of the sweep's model.

        Raises:
            SpecError: even the narrowest network is too large.
        """
        context = self.context
        if context.num_tasks == 1:
            return 1.0
        limit = parameters_with_head(self.network, context.scenario.num_outputs)

        def parameters(width: float) -> int:
            narrow = context.new_network(width)
            return sum(parameters_with_head(narrow, units) for units in context.scenario.sizes)

        if width := matching_width(parameters, limit):
            return width
        rule = f"{context.num_tasks} networks cannot be as small as one of this model; take a wider model"
        raise SpecError([Problem("match_parameters", rule, f"{limit} parameters")])

    def grow(self, task: int) -> None:
        """The network drawn first is the first task's, so that this task is learned as naive fine-tuning learns it."""
        if self.networks:
            self.networks[-1].requires_grad_(False).eval()
        if task or self._width != 1:
            self.network = self.context.new_network(self._width)
        self.task = task
        self.network.grow_head(self.context.scenario.sizes[task])
        self.networks.append(self.network)

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        """An optimiser of its own for every network: no old one is in it, and no moments are handed on."""
        return {f"network {task}": Trainable.of(self.networks[task].parameters())}

    def begin_task(self, task: int, data: TaskData) -> None:
        if task and self.config.start == "previous":
            before = self.networks[task - 1]
            self.network.backbone.load_state_dict(before.backbone.state_dict())
            if self.context.scenario.shared and before.head.outputs == self.network.head.outputs:
                self.network.head.load_state_dict(before.head.state_dict())

    # -- the update --------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        """Cross-entropy over the task's own units."""
        labels = batch.y - self.context.scenario.offset(self.task)
        return {"task": self.label_loss(self.network(batch.x), labels)}

    # -- prediction and state ----------------------------------------------------------------------------------

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        """Logits ``[batch, outputs so far]``, minus infinity at units of networks that do not answer.

        Networks run one after another: side by side (``torch.func.vmap``) 20 of them took as long with an MLP and up to
        2.3 times as long with a CNN, on the CPU.
        """
        if task is not None:
            return self._answer(task, x)
        if self.config.selector == "average":
            return self._average(x)
        select = least_entropy if self.config.selector == "entropy" else largest_probability
        return select(self._answers(x))[1]

    def _answers(self, x: Tensor) -> Iterator[Tensor]:
        """Logits ``[1, batch, outputs so far]`` of one network after another."""
        return (self._answer(task, x)[None] for task in range(len(self.networks)))

    def _answer(self, task: int, x: Tensor) -> Tensor:
        """A network's logits at its task's units ``[batch, outputs so far]``, minus infinity elsewhere."""
        scenario = self.context.scenario
        units = scenario.units(task)
        logits = x.new_full((len(x), scenario.outputs(self.task)), float("-inf"))
        logits[:, units.start : units.stop] = self.networks[task](x)
        return logits

    def _average(self, x: Tensor) -> Tensor:
        """Logits ``[batch, outputs so far]``, each unit's averaged over the networks that have it."""
        scenario = self.context.scenario
        outputs = scenario.outputs(self.task)
        sums, counts = x.new_zeros(len(x), outputs), x.new_zeros(outputs)
        for task, network in enumerate(self.networks):
            units = scenario.units(task)
            sums[:, units.start : units.stop] += network(x)
            counts[units.start : units.stop] += 1
        return (sums / counts).masked_fill(counts == 0, float("-inf"))

    def active_logits(self) -> str:
        """A network has its own task's head only."""
        return "all" if self.context.scenario.shared else "own"

    def parameter_count(self) -> int:
        return sum(p.numel() for network in self.networks for p in network.parameters())

    def state_dict(self) -> dict[str, Any]:
        return {"networks": [network.state_dict() for network in self.networks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for network, stored in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(stored)
