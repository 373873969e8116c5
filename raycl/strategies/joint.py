"""Joint training: one network on the data of all tasks at once. The upper bound of every comparison.

It is trained once, when the last task has arrived, with T times the updates of one task, and leaves one row of the
accuracy matrix: forgetting is not defined for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from raycl.spec.needs import Idle
from raycl.strategies.base import Phase, Source, Strategy, StrategyConfig


class JointConfig(StrategyConfig):
    """Joint training has no options."""


class Joint(Strategy):
    """One shuffled pass over all tasks' data, ``training.epochs`` times."""

    Config = JointConfig
    stability = ()
    one_pass: ClassVar[bool] = False
    idle_rows = "never"
    ignores: ClassVar[tuple[Idle, ...]] = (Idle(("training.reset_optimizer",), "all tasks are learned at once"),)
    upper_bound: ClassVar[bool] = True
    at_once: ClassVar[bool] = True

    def phases(self, task: int) -> Sequence[Phase]:
        if not self.measured(task):
            return ()
        return (Phase("train", self.length().for_tasks(self.context.num_tasks), Source.ALL),)

    def measured(self, task: int) -> bool:
        return task == self.context.num_tasks - 1
