"""MIR, maximally interfered retrieval: replay the rows whose loss the coming update would raise most.

Aljundi, Caccia et al., "Online continual learning with maximal interfered retrieval", NeurIPS 2019 (arXiv 1908.04742),
algorithm 1 and section 3.1. With g the gradient of the new rows' loss at theta, and theta_v = theta - a g, each of
``subsample`` drawn rows scores

    difference: loss(theta_v) - loss(theta)
    best:       loss(theta_v) - min(loss(theta), the least loss of this row at any earlier scoring)

The highest scores are replayed; the update takes the gradient of both parts at theta, each from a forward pass of its
own, and adds them, as the authors' code does. The published numbers are 10 rows replayed of 50 drawn:
``memory.batch_size`` is 10 where the sweep file leaves it open. As many rows replayed as drawn would be experience
replay, and are refused.

Departures:
- Virtual steps and scores are computed in evaluation mode, so that no running statistics move, and on one augmented
  view of each row, the one that is then replayed.
- ``best`` begins with a row's first scoring, not with the loss at which it was stored.
- The gradient of the virtual step is computed anew, since the update's own runs in training mode.
- Rows of the current task are left out as in :mod:`raycl.strategies.replay`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from raycl.learning.passes import FORWARD_HELP, ForwardPasses
from raycl.models.network import frozen_statistics
from raycl.spec.needs import Need
from raycl.spec.options import Count, Later, Positive, ScenarioName
from raycl.strategies.replay import Replay, ReplayConfig, first_drawn
from raycl.streams.task import Batch


class MIRConfig(ReplayConfig):
    """How many rows compete, and by what."""

    search_space: ClassVar[dict[str, Any]] = {"subsample": {"choice": [20, 50, 100, 200]}}

    exclude_current: bool = Field(True, description="replay no rows of the current task, or of the batch's classes")
    subsample: Count = Field(50, description="rows drawn from the memory that compete for being replayed")
    score: Literal["difference", "best"] = Field("difference", description="loss raised, or raised above its best")
    virtual_learning_rate: Positive | None = Field(
        None, description="of the virtual step, plain SGD; default: training's learning rate"
    )
    forward: Annotated[ForwardPasses, Later()] = Field("separate", description=FORWARD_HELP)


class MIR(Replay):
    """The most interfered of the drawn rows in every update."""

    Config = MIRConfig
    acts_from = {
        **Replay.acts_from,
        **dict.fromkeys(("subsample", "score", "virtual_learning_rate"), first_drawn),
    }
    between_tasks = ("subsample", "virtual_learning_rate")
    divisible: ClassVar[bool] = False  # candidates are scored all the same
    revision: ClassVar[int] = 2  # a forward pass for the replayed rows
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        scenario: {"memory.batch_size": 10} for scenario in get_args(ScenarioName)
    }
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "subsample",
            "must be above the rows that are replayed in an update (memory.batch_size, else training.batch_size), or "
            "none is chosen and this is method replay",
            lambda at: at.options.subsample > at.replay_batch,
        ),
    )
    paper: ClassVar[str] = "Aljundi, Caccia et al. 2019, Maximal interfered retrieval (arXiv 1908.04742)"

    config: MIRConfig

    @property
    def _rate(self) -> float:
        """Of the virtual step, which follows the schedule of the real one."""
        return self.config.virtual_learning_rate or self.learning_rate

    @property
    def draw_size(self) -> int:
        return self.config.subsample

    def select(self, batch: Batch) -> Batch:
        rows = super().select(batch)
        return rows if len(rows) <= self.replay_size else self.most_interfered(batch, rows)

    def most_interfered(self, batch: Batch, rows: Batch) -> Batch:
        """The highest scores, in the order in which they were drawn."""
        chosen = self.scores(batch, rows).topk(min(self.replay_size, len(rows))).indices
        return rows[chosen.sort().values]

    def scores(self, batch: Batch, rows: Batch) -> Tensor:
        """How much the new rows' update would raise the loss of each row, float ``[rows]``."""
        with frozen_statistics(self.network):
            virtual = self._virtual_step(batch)
            with torch.no_grad():
                after = self._losses(torch.func.functional_call(self.network, virtual, (rows.x,)), rows)
                before = self._losses(self.network(rows.x), rows)
        return after - (before if self.config.score == "difference" else self._best(before, rows))

    def _virtual_step(self, batch: Batch) -> dict[str, Tensor]:
        """The parameters after a step of plain SGD on the new rows, beside the real ones."""
        named = {name: value for name, value in self.network.named_parameters() if value.requires_grad}
        values: list[Tensor] = list(named.values())
        loss = self.cross_entropy(self.network(batch.x), batch)
        gradients = torch.autograd.grad(loss, values, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            return dict(zip(named, torch._foreach_add(values, gradients, alpha=-self._rate), strict=True))

    def _losses(self, logits: Tensor, rows: Batch) -> Tensor:
        return self.cross_entropy(logits, rows, reduction="none")

    def _best(self, losses: Tensor, rows: Batch) -> Tensor:
        """The least loss so far ``[rows]``, stored with the rows."""
        known = rows.columns.get("best_loss")
        best = losses if known is None else torch.fmin(losses, known)
        self.memory.write(self.memory.sampled, {"best_loss": best})
        return best
