"""ER-ACE: experience replay whose new rows push no class that is not among them.

Caccia et al., "New insights on reducing abrupt representation change in online continual learning", ICLR 2022 (arXiv
2104.05025), equation 3, the asymmetric cross-entropy: new rows compete among the classes present in the batch, replayed
rows among all that experience replay would give them. The logits of old classes so get no gradient from new rows.

Class-incremental only: where tasks share their units, or have a head each, it is experience replay.

Departures: ``unseen`` lets new rows also compete with units whose class no row has had so far, as the mammoth library
does; they then learn to stay low before their time.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raycl.spec.needs import Idle
from raycl.strategies.base import Context, Position
from raycl.strategies.replay import Replay, ReplayConfig
from raycl.streams.task import Batch


class ERACEConfig(ReplayConfig):
    """Which units new rows compete among, besides those of their own classes."""

    ignores: ClassVar[tuple[Idle, ...]] = (
        *ReplayConfig.ignores,
        Idle(
            ("unseen",),
            "where the head grows, units that have not come are not there; set training.active_logits: all",
            lambda at: not at.hidden and at.training.active_logits != "all",
        ),
    )

    unseen: bool = Field(False, description="new rows also compete with units whose class has not come yet")


class ERACE(Replay):
    """Asymmetric cross-entropy."""

    Config = ERACEConfig
    scenarios: ClassVar[frozenset[str]] = frozenset({"class"})
    paper: ClassVar[str] = "Caccia et al. 2022, Reducing abrupt representation change (arXiv 2104.05025)"

    config: ERACEConfig

    def __init__(self, config: ERACEConfig, context: Context) -> None:
        super().__init__(config, context)
        self._seen = torch.zeros(context.scenario.num_outputs, dtype=torch.bool, device=context.device)

    def draw(self, batch: Batch, at: Position) -> Batch:
        self._seen[batch.y] = True
        return super().draw(batch, at)

    def logits(self, batch: Batch) -> Tensor:
        """Logits ``[batch, outputs]``; -inf where a unit does not compete for a new row."""
        logits = super().logits(batch)
        active = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        active[batch.y[: self._new]] = True
        if self.config.unseen:
            active |= ~self._seen[: len(active)]
        return logits.masked_fill(~(active | batch.replayed[:, None]), float("-inf"))

    def active_logits(self) -> str:
        present = "present+unseen" if self.config.unseen else "present"
        return f"{present}, replayed {super().active_logits()}"

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._seen.copy_(state["seen"])
