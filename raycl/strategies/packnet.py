"""PackNet: each task keeps a share of the weights, and the rest is pruned for the tasks to come.

Mallya and Lazebnik, "PackNet: adding multiple tasks to a single network by iterative pruning", CVPR 2018 (arXiv
1711.05769), section 3. Task t trains all free weights while those of earlier tasks stay as they are, frees in every
layer the smallest of its own, and retrains what it kept. Task j is answered with the weights of tasks up to j, its own
head, and the biases and norm layers of the first task, which are frozen afterwards, running statistics included.

The share of weights that are free after each task is kept with its results, and a layer that is used up is told.

The number of tasks is not known, so the last task is pruned like any other; ``prune_fraction: equal_share`` uses it:
every one of T tasks keeps 1/T, and the last one all that is left, without a retraining phase. Departures: the first
task is learned from scratch, not taken from ImageNet; entries are put back after every update rather than only masked
in the gradient, so that no optimiser moves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from raycl.errors import MethodError
from raycl.learning.own_units import OWN_HEADS, require_own_heads
from raycl.learning.ownership import FrozenEntries, Ownership
from raycl.spec.needs import Need
from raycl.spec.options import Fraction, Positive
from raycl.strategies.base import (
    Context,
    Phase,
    Position,
    Strategy,
    StrategyConfig,
    TaskData,
    nested_bytes,
)
from raycl.streams.task import Batch


class PackNetConfig(StrategyConfig):
    """How much is pruned, and how long the rest is retrained."""

    search_space = {"prune_fraction": {"uniform": [0.5, 0.9]}}

    prune_fraction: Annotated[float, Field(ge=0, lt=1)] | Literal["equal_share"] = Field(
        0.75,
        description="of a task's own weights that are freed after it; equal_share: 1/T of all is kept by each task",
    )
    retrain_fraction: Annotated[Fraction, Field(gt=0)] = Field(
        0.5, description="length of retraining after pruning, as a share of training's; comes on top of it"
    )
    retrain_learning_rate: Positive = Field(0.1, description="factor on the learning rate while retraining")


class PackNet(Strategy):
    """Iterative pruning with an owner for every weight of the backbone's linear and convolutional layers."""

    Config = PackNetConfig
    keeps_best: ClassVar[bool] = False
    between_tasks = ("prune_fraction", "retrain_fraction", "retrain_learning_rate")
    one_pass: ClassVar[bool] = False
    idle_rows = "always"
    needs: ClassVar[tuple[Need, ...]] = (OWN_HEADS,)
    scenarios = frozenset({"task"})
    zero_shot = False
    paper = "Mallya and Lazebnik 2018, PackNet (arXiv 1711.05769)"

    config: PackNetConfig

    def __init__(self, config: PackNetConfig, context: Context) -> None:
        super().__init__(config, context)
        require_own_heads(context.scenario, "packnet")
        layers = self.network.backbone.named_modules()
        self._owned = [f"{name}.weight" for name, layer in layers if isinstance(layer, (nn.Linear, nn.Conv2d))]
        self.ownership = Ownership(self._weights())
        self._frozen = FrozenEntries({}, {})

    def _weights(self) -> dict[str, Tensor]:
        """The weights that tasks own, by their names in the backbone."""
        return {name: self.network.backbone.get_parameter(name) for name in self._owned}

    # -- the task ----------------------------------------------------------------------------------------------

    def learning_units(self, task: int) -> Sequence[range] | None:
        return [self.context.scenario.units(task)]

    def begin_task(self, task: int, data: TaskData) -> None:
        self.ownership.claim(task)
        self._freeze()

    def phases(self, task: int) -> Sequence[Phase]:
        length = self.length()
        train = Phase("train", length)
        if self._prune_fraction() == 0:
            return (train,)
        factor = self.config.retrain_learning_rate
        retrain = Phase(
            "retrain",
            length.times(self.config.retrain_fraction),
            start=self._prune,
            new_optimizers=True,
            learning_rate=lambda at: factor,
        )
        return train, retrain

    def _prune_fraction(self) -> float:
        if self.config.prune_fraction != "equal_share":
            return self.config.prune_fraction
        left = self.context.num_tasks - self.task
        return (left - 1) / left

    def _prune(self) -> None:
        self.ownership.prune(self._weights(), self.task, self._prune_fraction())
        self._freeze()

    def _freeze(self) -> None:
        """Hold all but the task's own weights, its rows of the head and, in the first task, biases and norm layers."""
        parameters = dict(self.network.named_parameters())
        units = self.context.scenario.units(self.task)
        frozen = {}
        for name, parameter in parameters.items():
            layer, _, local = name.partition(".")
            mask = parameter.new_full(parameter.shape, self.task > 0).bool()
            if layer == "head":
                mask[:] = True
                mask[units.start : units.stop] = False
            elif local in self.ownership.owner:
                mask = ~self.ownership.owned(local, self.task)
            frozen[name] = mask
        self._frozen = FrozenEntries(parameters, frozen)

    def train(self, mode: bool) -> None:
        super().train(mode)
        if self.task > 0:
            for layer in self.network.modules():
                if isinstance(getattr(layer, "running_mean", None), Tensor):
                    layer.eval()

    # -- the update --------------------------------------------------------------------------------------------

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        self._frozen.zero_gradients()

    def after_update(self, batch: Batch, at: Position) -> None:
        self._frozen.restore()

    # -- prediction and state ----------------------------------------------------------------------------------

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        """Logits ``[batch, outputs so far]``; minus infinity outside the task's units.

        The network itself stays as it is: zeros written into it would be the end of later tasks.
        """
        if task is None:
            raise MethodError("packnet: needs the task id to predict; use scenario task")
        features: Tensor = functional_call(self.network.backbone, self.ownership.visible(self._weights(), task), (x,))
        return self.network.head.alone(features, self.context.scenario.units(task))

    def measures(self) -> dict[str, float]:
        """``free_weights``: the share of the weights that later tasks may still train."""
        return {"free_weights": self.ownership.free_share()}

    def warnings(self) -> tuple[str, ...]:
        """Which layers are used up while tasks are still to come."""
        full = [name for name, share in self.ownership.free().items() if share == 0]
        if not full or self.task + 1 >= self.context.num_tasks:
            return ()
        layers = "any layer" if len(full) == len(self._owned) else ", ".join(full)
        return (
            f"no weight of {layers} is free for the tasks to come: what they learn is their head on a trunk that does "
            f"not move there; raise prune_fraction (got {self.config.prune_fraction}), or take a wider model",
        )

    def state_bytes(self) -> int:
        """Owners are charged as packed bits; in memory and in checkpoints they are bytes."""
        return nested_bytes(super().state_dict()) + self.ownership.packed_bytes(self.task + 1)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "owner": self.ownership.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.ownership.load_state_dict(state["owner"])
