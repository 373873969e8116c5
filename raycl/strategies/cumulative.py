"""Cumulative training: at every task, learn the data of all tasks seen so far.

An upper bound with a full accuracy matrix, whose diagonal is the usual reference of intransigence (Chaudhry et al.,
ECCV 2018). ``start: warm`` goes on from the last network, ``start: scratch`` draws a new one for every task: these are
two different baselines. Rows are drawn in proportion to the tasks' sizes. With ``training.iterations`` task t takes
t times the updates of one task, as with epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from raycl.strategies.base import Phase, Source, Strategy, StrategyConfig


class CumulativeConfig(StrategyConfig):
    """Where each task's training starts."""

    start: Literal["warm", "scratch"] = Field("warm", description="from the last network, or from a new one")


class Cumulative(Strategy):
    """Learn tasks 0..t at task t."""

    Config = CumulativeConfig
    acts_from = {"start": 2}
    between_tasks = ("start",)
    stability = ()
    one_pass: ClassVar[bool] = False
    idle_rows = "never"
    upper_bound: ClassVar[bool] = True

    def phases(self, task: int) -> Sequence[Phase]:
        length = self.length().for_tasks(task + 1)
        scratch = self.config.start == "scratch" and task > 0
        start = self._renew if scratch else None
        return (Phase("train", length, Source.SEEN, start=start, new_optimizers=scratch),)

    def _renew(self) -> None:
        self.network = self.context.new_network().to(self.context.device)
        self.grow(self.task)
