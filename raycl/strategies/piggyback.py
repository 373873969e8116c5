"""Piggyback: a backbone that stays as it is serves every task through a mask of its own on the weights.

Mallya, Davis and Lazebnik, "Piggyback: adapting a single network to multiple tasks by learning to mask weights", ECCV
2018 (arXiv 1801.06519), section 3. A weight of a linear or convolutional layer counts, W * m, where its score lies
above ``threshold``. Scores begin at ``initial_score``, which lets all weights through, and learn by straight-through
gradients, dL/dscore := dL/d(W * m) * W (:mod:`raycl.models.masked`). Weights, biases and norm layers never move, nor do
running statistics. Once its task is over, a mask stays as one bit a weight; or as two, for the masks {-1, 0, 1} of
``values: ternary``, where a weight with a negative score counts with the other sign. Every task has its own rows of the
head.

``freeze: from_start`` is the paper's way, and needs a model with pretrained ``weights``; ``after_first_task`` trains it
on the first task, which is then answered without a mask.

Scores take no weight decay, which would switch all weights off. Under Adam they move by about
``mask_learning_rate * training.learning_rate`` in an update, 1e-4 in the authors' code; 50 of these close a weight.
Departures: scores and head share one kind of optimiser (the paper has SGD for the head), and the learning rate does not
fall.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from raycl.errors import MethodError
from raycl.learning.own_units import OWN_HEADS, own_head_only, require_own_heads, require_own_units
from raycl.learning.ownership import FrozenEntries, other_rows
from raycl.models.masked import MaskedWeights, above, signed
from raycl.spec.needs import NEW_OPTIMIZERS, Idle, Need
from raycl.spec.options import Positive
from raycl.spec.setting import Setting
from raycl.strategies.base import Context, Losses, Position, Strategy, StrategyConfig, TaskData, Trainable
from raycl.streams.task import Batch


class PiggybackConfig(StrategyConfig):
    """When the backbone is frozen, and how masks are found."""

    search_space: ClassVar[dict[str, Any]] = {"mask_learning_rate": {"loguniform": [0.03, 3]}}

    freeze: Literal["after_first_task", "from_start"] = Field(
        "after_first_task", description="from_start: for a model with pretrained weights"
    )
    values: Literal["binary", "ternary"] = Field("binary", description="of a mask: 0 and 1, or -1, 0 and 1")
    threshold: Positive = Field(5e-3, description="a weight counts where its score lies above it")
    initial_score: Positive = Field(1e-2, description="of every weight as a task begins; above threshold, so all count")
    mask_learning_rate: Positive = Field(0.1, description="factor on the learning rate for the scores")

    @model_validator(mode="after")
    def _begins_with_all_weights(self) -> PiggybackConfig:
        if self.initial_score <= self.threshold:
            raise ValueError("initial_score must lie above threshold, so that a task begins with the whole backbone")
        return self


def _first_masked(at: Setting) -> int:
    """The first task, counted from 1, that learns a mask."""
    return 1 if at.options.freeze == "from_start" else 2


class Piggyback(Strategy):
    """Learn which weights of a fixed backbone a task uses."""

    Config = PiggybackConfig
    acts_from = dict.fromkeys(("values", "threshold", "initial_score", "mask_learning_rate"), _first_masked)
    between_tasks = ("mask_learning_rate", "initial_score")
    diagnosable: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (OWN_HEADS, own_head_only("a mask"))
    ignores: ClassVar[tuple[Idle, ...]] = (NEW_OPTIMIZERS,)
    scenarios: ClassVar[frozenset[str]] = frozenset({"task"})
    zero_shot: ClassVar[bool] = False
    paper: ClassVar[str] = "Mallya, Davis and Lazebnik 2018, Piggyback (arXiv 1801.06519)"

    config: PiggybackConfig

    def __init__(self, config: PiggybackConfig, context: Context) -> None:
        super().__init__(config, context)
        scenario = context.scenario
        require_own_heads(scenario, "piggyback")
        require_own_units(scenario, "a mask")
        self.masked = MaskedWeights(self.network.backbone)
        self.scores: dict[str, nn.Parameter] = {}
        self.bits: list[Tensor | None] = []
        self._idle = FrozenEntries({}, {})

    # -- growth and optimisation -------------------------------------------------------------------------------

    def _has_mask(self, task: int) -> bool:
        return task > 0 or self.config.freeze == "from_start"

    def grow(self, task: int) -> None:
        super().grow(task)
        if self._has_mask(task):
            self.network.backbone.requires_grad_(False)
            self.network.backbone.zero_grad(set_to_none=True)
            self.scores = {
                name: nn.Parameter(torch.full(shape, self.config.initial_score, device=self.context.device))
                for name, shape in self.masked.shapes.items()
            }

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        """A new optimiser for every task: scores are new, so no moments are handed on."""
        if not self._has_mask(task):
            return super().trainable(task)
        scores = {"params": list(self.scores.values()), "scale": self.config.mask_learning_rate, "weight_decay": 0.0}
        return {f"task {task}": Trainable([scores, {"params": list(self.network.head.parameters())}])}

    def train(self, mode: bool) -> None:
        super().train(mode)
        if self._has_mask(self.task):
            self.network.backbone.eval()

    # -- the task ----------------------------------------------------------------------------------------------

    def begin_task(self, task: int, data: TaskData) -> None:
        self._idle = other_rows(self.network.head, self.context.scenario.units(task))

    def end_task(self, task: int, data: TaskData) -> None:
        self.bits.append(self._packed() if self._has_mask(task) else None)
        self.scores = {}

    # -- the mask ----------------------------------------------------------------------------------------------

    def _decided(self) -> dict[str, Tensor]:
        """The mask that the scores stand for."""
        decide = above if self.config.values == "binary" else signed
        return {name: decide(scores, self.config.threshold) for name, scores in self.scores.items()}

    def _packed(self) -> Tensor:
        """The scores' mask as bits, ``[1 or 2, bytes]``: where it is not 0 and, if ternary, where it is negative."""
        masks = self._decided()
        planes = [masks]
        if self.config.values == "ternary":
            planes.append({name: mask < 0 for name, mask in masks.items()})
        return torch.stack([self.masked.pack(plane) for plane in planes])

    def _stored(self, bits: Tensor) -> dict[str, Tensor]:
        """The inverse of :meth:`_packed`."""
        counts, *negative = self.masked.unpack(bits).float()
        return self.masked.split(counts - 2 * negative[0] if negative else counts)

    def _mask(self, task: int) -> dict[str, Tensor] | None:
        """A task's mask, that of its scores while it is being learned; None where it has none."""
        if task == len(self.bits):
            return self._decided() if self.scores else None
        bits = self.bits[task]
        return None if bits is None else self._stored(bits)

    # -- the update and prediction -----------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        """Cross-entropy over the task's own units."""
        labels = batch.y - self.context.scenario.offset(self.task)
        features = self._features(self._mask(self.task), batch.x)
        logits = self.network.head.own(features, self.context.scenario.units(self.task))
        return {"task": self.label_loss(logits, labels)}

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        self._idle.zero_gradients()

    def after_update(self, batch: Batch, at: Position) -> None:
        self._idle.restore()

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        """Logits ``[batch, outputs so far]``; minus infinity outside the task's units."""
        if task is None:
            raise MethodError("piggyback: needs the task id to predict; use scenario task")
        features = self._features(self._mask(task), x)
        return self.network.head.alone(features, self.context.scenario.units(task))

    def _features(self, masks: Mapping[str, Tensor] | None, x: Tensor) -> Tensor:
        """``[batch, features]`` of the masked backbone; of the whole one where there are no masks."""
        weights = self.masked.weights() if masks is None else self.masked.apply(masks)
        features: Tensor = functional_call(self.network.backbone, weights, (x,))
        return features

    # -- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "masks": list(self.bits)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.bits = [None if bits is None else bits.to(self.context.device) for bits in state["masks"]]
