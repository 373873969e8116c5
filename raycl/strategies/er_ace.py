"""ER-ACE: experience replay whose new rows push no class that is not among them.

Caccia et al., "New insights on reducing abrupt representation change in online continual learning", ICLR 2022 (arXiv
2104.05025), equation 3, the asymmetric cross-entropy: new rows compete among the classes present in the batch, replayed
rows among all that experience replay would give them. The logits of old classes so get no gradient from new rows.

Class-incremental only: where tasks share their units, or have a head each, it is experience replay.

Besides, ``unseen`` lets new rows compete with units whose class no row has had so far, which so learn to stay low
before their time. The equation has no such units; the authors' own code (AML) always has them, and so has the mammoth
library. They exist on a full head only: class-incrementally ``active_logits: auto`` is ``all`` here, on which the
default is to let them compete, and ``unseen: true`` on a head that grows is refused. The authors' head is 10 times a
cosine (``model.classifier: auto`` is ``cosine`` here), and new and replayed rows go through it in passes of their own
(``forward: separate``), whose two mean losses are added.

Departures: the authors' code counts as unseen every unit from the largest seen one on, itself included; here a unit is
seen once a row has had its class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raycl.learning.passes import FORWARD_HELP, ForwardPasses
from raycl.spec.needs import Need
from raycl.spec.options import Later
from raycl.strategies.base import Context, Position
from raycl.strategies.replay import Replay, ReplayConfig
from raycl.streams.task import Batch


class ERACEConfig(ReplayConfig):
    """Which units new rows compete among, besides those of their own classes."""

    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "unseen",
            "units that have not come yet exist on a full head only; set training.active_logits: all",
            lambda at: not at.options.unseen or at.hidden or at.training.active_logits == "all",
        ),
    )

    unseen: Annotated[bool | None, Later(before=False)] = Field(
        None,
        description="new rows also compete with units whose class has not come yet; default: where the head is full",
    )
    forward: Annotated[ForwardPasses, Later()] = Field("separate", description=FORWARD_HELP)


class ERACE(Replay):
    """Asymmetric cross-entropy."""

    Config = ERACEConfig
    scenarios: ClassVar[frozenset[str]] = frozenset({"class"})
    revision: ClassVar[int] = 2  # a forward pass for the replayed rows
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "class": {"training.active_logits": "all", "model.classifier": "cosine"}
    }
    paper: ClassVar[str] = "Caccia et al. 2022, Reducing abrupt representation change (arXiv 2104.05025)"

    config: ERACEConfig

    def __init__(self, config: ERACEConfig, context: Context) -> None:
        super().__init__(config, context)
        scenario = context.scenario
        full = scenario.outputs(0) == scenario.num_outputs
        self._unseen = full if config.unseen is None else config.unseen
        self._seen = torch.zeros(scenario.num_outputs, dtype=torch.bool, device=context.device)

    def draw(self, batch: Batch, at: Position) -> Batch:
        self._seen[batch.y] = True
        return super().draw(batch, at)

    def logits(self, batch: Batch) -> Tensor:
        """Logits ``[batch, outputs]``; -inf where a unit does not compete for a new row."""
        logits = super().logits(batch)
        active = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        active[batch.y[: self._new]] = True
        if self._unseen:
            active |= ~self._seen[: len(active)]
        return logits.masked_fill(~(active | batch.replayed[:, None]), float("-inf"))

    def active_logits(self) -> str:
        present = "present+unseen" if self._unseen else "present"
        return f"{present}, replayed {super().active_logits()}"

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._seen.copy_(state["seen"])
