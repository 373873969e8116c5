"""Which rows each update of a phase sees."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raycl.errors import MethodError
from raycl.strategies.base import Epochs, Phase, Position, Share
from raycl.streams.task import Batch
from raycl.trial.budget import Allowance, Turn
from raycl.trial.loading import RowPool


@dataclass(frozen=True)
class BatchPlan:
    """The batches of one phase.

    Epochs see every row: a last batch may be smaller, but a single left-over row joins the batch before it, so that
    batch statistics exist (one row an update is what ``batch_size: 1`` asks for). Updates, and a budget, see full
    batches only, from one shuffled pass after another, but for the last one of a budget; rows that the first pass
    leaves over are told when they come (:attr:`raycl.strategies.phases.Position.late`).

    Attributes:
        pool: the rows; those from ``fresh`` on are the memory's, in a union of current task and memory.
        batch_size: rows per update, of the shuffled order.
        memory_batch_size: rows that ``paired`` adds to every update.
        mix: how a union is composed, as in the sweep file.
        generator: draws orders.
        allowance: what the phase may spend, where there is a budget.
    """

    pool: RowPool
    fresh: int
    phase: Phase
    batch_size: int
    memory_batch_size: int
    mix: Literal["size", "equal", "paired"]
    generator: torch.Generator
    allowance: Allowance | None = None

    def batches(self, task: int) -> Iterator[tuple[Batch, Position]]:
        """Every update's batch and position."""
        if not len(self.pool):
            return
        name, update, epoch, total = self.phase.name, 0, 0, math.inf
        waiting = _Waiting(torch.empty(0, dtype=torch.int64), len(self.pool))
        while update < total:
            index = self._index()
            splits = self._split(index)
            if not epoch:
                total = self._updates(len(splits))
                waiting = _Waiting(index[sum(map(len, splits)) :], len(self.pool))
            for rows in splits:
                turn = self._turn(len(rows), update, total)
                if not turn.rows:
                    return
                share = turn.rows / len(rows)
                rows = rows[: turn.rows]
                late = waiting.among(rows) if epoch else None
                at = Position(
                    task,
                    name,
                    epoch,
                    update,
                    turn.fraction,
                    turn.last,
                    late,
                    share,
                    math.inf if self.allowance else total,
                )
                yield self.pool.gather(self._with_memory(rows, at)), at
                update += 1
            epoch += 1

    def _updates(self, a_pass: int) -> float:
        """Updates of the phase, of which so many are a pass; without end where the budget alone ends it."""
        length = self.phase.length
        if isinstance(length, Share):
            return math.inf
        return length.count * a_pass if isinstance(length, Epochs) else length.count

    def _turn(self, rows: int, update: int, total: float) -> Turn:
        """The next update, by the phase's length and by its budget."""
        if update >= total:
            return Turn(0, 1.0, True)
        turn = Turn(rows, update / total, update == total - 1)
        if self.allowance is None:
            return turn
        allowed = self.allowance.next(rows)
        return Turn(allowed.rows, max(allowed.fraction, turn.fraction), allowed.last or turn.last)

    def _split(self, index: Tensor) -> list[Tensor]:
        """Row indices of each update of one pass."""
        size = min(self.batch_size, len(index))
        splits = list(index.split(size))
        if isinstance(self.phase.length, Epochs):
            if len(splits) > 1 and len(splits[-1]) == 1 < size:
                splits[-2:] = [torch.cat(splits[-2:])]
        elif len(splits[-1]) < size:
            splits.pop()
        return splits

    def _index(self) -> Tensor:
        """Row indices of one pass, in order."""
        rows = torch.arange(len(self.pool))
        remembered = len(rows) - self.fresh
        if remembered and self.fresh and self.mix == "paired":
            rows = rows[: self.fresh]
        elif remembered and self.fresh and self.mix == "equal":
            times = max(1, round(self.fresh / remembered))
            rows = torch.cat([rows[: self.fresh], rows[self.fresh :].repeat(times)])
        if self.phase.order == "stream":
            return rows
        return rows[torch.randperm(len(rows), generator=self.generator)]

    def _with_memory(self, index: Tensor, at: Position) -> Tensor:
        """``paired``: add rows of the memory, drawn without replacement."""
        if self.mix != "paired":
            return index
        remembered = len(self.pool) - self.fresh
        if not remembered or not self.fresh:
            return index
        drawn = torch.randperm(remembered, generator=self.generator)[: self.memory_batch_size]
        return torch.cat([index, at.part_of(drawn) + self.fresh])


def refuse_single_row(error: ValueError, strategy: str) -> None:
    """What a step's error means where it comes from batch norm.

    Raises:
        MethodError: an update came to one row, whose activations are single numbers per channel.
    """
    if str(error).startswith("Expected more than 1 value per channel"):
        raise MethodError(
            f"{strategy}: batch norm has no statistics of one row, and an update came to one (torch: {error}); use "
            "larger batches, a larger memory, or model.norm: none or group"
        ) from error


class _Waiting:
    """Rows that the first pass left over, until they come.

    Args:
        rows: int64 ``[n]``.
        among: rows of the pool.
    """

    def __init__(self, rows: Tensor, among: int) -> None:
        self._waits = torch.zeros(among, dtype=torch.bool)
        self._waits[rows] = True
        self._any = len(rows) > 0

    def among(self, index: Tensor) -> Tensor | None:
        """Which rows of an update come for the first time, bool ``[batch]``; None: none of them."""
        if not self._any:
            return None
        late = self._waits[index]
        if not late.any():
            return None
        self._waits[index] = False
        self._any = bool(self._waits.any())
        return late
