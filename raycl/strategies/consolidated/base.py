"""What CWR, AR1 and generative negative replay share: a consolidated head over a trunk that settles after one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from raycl.learning.consolidated_head import ConsolidatedHead, Variant
from raycl.models.cut import cut
from raycl.models.network import GrowingHead
from raycl.spec.options import Positive
from raycl.strategies.base import (
    Context,
    Losses,
    Phase,
    Position,
    Rows,
    Source,
    Strategy,
    StrategyConfig,
    TaskData,
    Trainable,
)
from raycl.strategies.lower_part import FREEZE, Freeze, LowerPart
from raycl.streams.task import Batch


class ConsolidatedConfig(StrategyConfig):
    """When the trunk settles, and how the head learns from then on."""

    freeze: Freeze = Field("after_first_task", description=FREEZE)
    head_learning_rate: Positive = Field(
        1.0, description="factor on the learning rate of the head once the trunk has settled"
    )


class Consolidated(Strategy):
    """A temporary head learns each task, and is merged into the consolidated head that answers.

    What lies below ``layer`` (default: the whole trunk) is frozen or slowed once it has settled. Where it is frozen,
    its activations are kept for the task's updates, unless the stream augments.

    Args:
        variant, scale: of the head.
        learning_rate: factor on the learning rate of the settled lower part; 0 freezes it.
    """

    keeps_best: ClassVar[bool] = False
    config: ConsolidatedConfig

    def __init__(
        self,
        config: ConsolidatedConfig,
        context: Context,
        *,
        variant: Variant = "cwr_star",
        scale: float = 1.0,
        layer: str | None = None,
        learning_rate: float = 0.0,
    ) -> None:
        super().__init__(config, context)
        backbone = self.network.backbone
        lower, self.upper = (backbone, nn.Sequential()) if layer is None else cut(backbone, layer)
        self.lower = LowerPart(lower, config.freeze, learning_rate)
        self.head = ConsolidatedHead(self.network.head, variant, scale)
        self._latents: Rows | None = None  # of the task, where the lower part gives the same ones every time

    # -- growth and optimisation -------------------------------------------------------------------------------

    def grow(self, task: int) -> None:
        super().grow(task)
        self.head.grow()
        self.lower.begin(task)

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        return self.lower.trainable(task, self._above()) if self.lower.settled(task) else super().trainable(task)

    def _above(self) -> list[dict[str, Any]]:
        """Parameter groups above a settled lower part."""
        return groups_above(self.upper, self.network.head, 1.0, self.config.head_learning_rate)

    def train(self, mode: bool) -> None:
        super().train(mode)
        self.lower.hold_statistics(self.task)

    # -- the task ----------------------------------------------------------------------------------------------

    def begin_task(self, task: int, data: TaskData) -> None:
        self.head.begin(data.counts())
        self._keep_latents(task, data)

    def _keep_latents(self, task: int, data: TaskData) -> None:
        if self.lower.frozen(task) and not self.context.augments:
            self._latents = self.lower.activations(data)

    def phases(self, task: int) -> Sequence[Phase]:
        return (Phase("train", self.length(), self._latents or Source.CURRENT),)

    def end_task(self, task: int, data: TaskData) -> None:
        self.head.consolidate()
        self._latents = None

    # -- the update --------------------------------------------------------------------------------------------

    def draw(self, batch: Batch, at: Position) -> Batch:
        """The rows at the cut."""
        return batch if self._latents is not None else self.lower.at_cut(batch, at.task)

    def loss(self, batch: Batch) -> Losses:
        return {"task": self.cross_entropy(self.network.head(self.upper(batch.x)), batch)}

    # -- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "head": self.head.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.head.load_state_dict(state["head"])


def groups_above(upper: nn.Module, head: GrowingHead, upper_rate: float, head_rate: float) -> list[dict[str, Any]]:
    """Parameter groups above a settled lower part, with factors on the learning rate; the head has no bias."""
    groups: list[dict[str, Any]] = [
        {"params": list(upper.parameters()), "scale": upper_rate},
        {"params": [head.weight], "scale": head_rate},
    ]
    return [group for group in groups if group["params"]]
