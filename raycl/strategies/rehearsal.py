"""Rehearsal: each task is learned on one shuffled union of its data and the memory, which is updated afterwards.

Random replay of Pellegrini, Graffieti, Lomonaco and Maltoni, IROS 2020 (arXiv 1912.01100), algorithm 2: after the i-th
task (counted from 1) h = M / i of its examples replace as many random ones. "Naive rehearsal" of Hsu et al. 2018
(arXiv 1810.12488) is the same with ``memory.mix: equal``, where the memory is repeated to about the size of the new
data. ``mix: paired`` takes a batch of new rows and a batch of the memory in every update.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from raycl.spec.acting import KEPT
from raycl.spec.needs import Idle
from raycl.strategies.base import Phase, Source, Strategy, StrategyConfig, TaskData

REHEARSES = (
    Idle(
        ("memory.combine", "memory.insert"),
        "one mean is learned over new and stored rows, which come when a task ends",
    ),
    Idle(
        ("memory.batch_size",),
        "only memory.mix: paired adds a batch of its own",
        lambda at: at.memory.mix != "paired",
    ),
)
"""What does nothing for methods that learn one union of the new rows and the stored ones."""


class RehearsalConfig(StrategyConfig):
    """Rehearsal is set by the sweep's ``memory`` block."""


class Rehearsal(Strategy):
    """Train on CURRENT | MEMORY, then remember the task."""

    Config = RehearsalConfig
    acts_from = dict.fromkeys((*KEPT, "memory.mix"), 2)
    stability = ()
    one_pass: ClassVar[bool] = False
    offers: ClassVar[Literal["batch", "task"]] = "task"
    ignores: ClassVar[tuple[Idle, ...]] = REHEARSES
    uses_memory: ClassVar[bool] = True
    selection: ClassVar[str] = "random"
    paper: ClassVar[str] = "Pellegrini et al. 2020, Latent replay for real-time continual learning (arXiv 1912.01100)"

    def phases(self, task: int) -> Sequence[Phase]:
        return (Phase("train", self.length(), Source.CURRENT | Source.MEMORY),)

    def end_task(self, task: int, data: TaskData) -> None:
        self.memory.add(data.table())
