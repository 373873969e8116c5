"""Experience replay: every update learns new examples together with examples drawn from a memory.

Chaudhry et al., "On tiny episodic memories in continual learning", 2019 (arXiv 1902.10486); reservoir sampling after
Vitter 1985. The replayed rows of an update are drawn before its new rows are offered to the memory. The sweep's
``memory`` block says how large the memory is, which rows stay, and how the two losses are combined.

Departure: with several epochs a row is offered once (``insert: first_epoch``); ``every_epoch`` offers it anew in each,
as some libraries do.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from raycl.strategies.base import Losses, Position, Strategy, StrategyConfig
from raycl.streams.task import Batch


class ReplayConfig(StrategyConfig):
    """Experience replay is set by the sweep's ``memory`` block."""


class Replay(Strategy):
    """New rows plus as many drawn ones in every update."""

    Config = ReplayConfig
    boundary_free: ClassVar[bool] = True
    uses_memory: ClassVar[bool] = True
    paper: ClassVar[str] = "Chaudhry et al. 2019, On tiny episodic memories in continual learning (arXiv 1902.10486)"

    def draw(self, batch: Batch, at: Position) -> Batch:
        memory, options = self.memory, self.context.memory_config
        count = options.batch_size or self.context.training.batch_size
        drawn = memory.sample(count) if len(memory) else None
        if at.epoch == 0 or options.insert == "every_epoch":
            memory.add({"image": batch.image, "label": batch.y, "task": batch.task})
        if not at.last:
            memory.request(count)
        return batch if drawn is None else Batch.cat([batch, self.replayed(drawn)])

    def loss(self, batch: Batch) -> Losses:
        per_row = self.cross_entropy(self.network(batch.x), batch, reduction="none")
        new_weight, replay_weight = self._weights()
        return {
            "task": new_weight * masked_mean(per_row, ~batch.replayed),
            "replay": replay_weight * masked_mean(per_row, batch.replayed),
        }

    def _weights(self) -> tuple[float, float]:
        """Weights of the mean loss of new and of replayed rows."""
        share = 1 / (self.task + 1)
        return {"sum": (1.0, 1.0), "mean": (0.5, 0.5), "task_share": (share, 1 - share)}[
            self.context.memory_config.combine
        ]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean ``[]`` of the values ``[batch]`` where the mask holds; 0 where it holds nowhere. Waits for no device."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
