"""GEM, gradient episodic memory: no update may raise, to first order, the loss on any old task's memory.

Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017 (arXiv 1706.08840), algorithm 1.
Each old task's rows in memory give one gradient; where the new gradient points against any of them, it is replaced by
the nearest one that points against none (:mod:`raycl.learning.projection`). The guarantee is about the gradient, so
the paper's plain SGD without momentum is the honest optimiser; others run, but their step is not the projection.

All old tasks' gradients come from one pass forward and one back, and where a task keeps few rows they are never formed:
their products and their mixture are all that a projection takes (:mod:`raycl.learning.grouped_gradients`).

Departures:
- Which rows stay is the sweep's ``memory`` block. The paper keeps the last m rows of every task (``unit: task``,
  ``selection: ring``). The default here is a reservoir, which for ``unit: task`` is a sample of the same distribution
  where a task's rows come shuffled, and which shares a total capacity among tasks, where a ring would forget old ones.
- Memory gradients are taken in evaluation mode, so that they move no running statistics.
- All of the memory is used in every update: ``memory.batch_size``, ``combine`` and ``mix`` do not apply.
- Rows of a shared capacity that the current task took over no longer count; a task without rows objects to nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from raycl.learning.grouped_gradients import GroupedGradients, GroupGradients
from raycl.learning.projection import project
from raycl.spec.options import NonNegative
from raycl.strategies.base import Context, StrategyConfig, TaskData
from raycl.strategies.constrained import Constrained
from raycl.streams.task import Batch


class GEMConfig(StrategyConfig):
    """How hard old tasks push."""

    search_space: ClassVar[dict[str, Any]] = {"memory_strength": {"uniform": [0.0, 1.0]}}

    memory_strength: NonNegative = Field(
        0.5, description="gamma: least weight of each old gradient in a projection; more favours backward transfer"
    )


class GEM(Constrained[GroupGradients]):
    """Project each gradient so that no old task's memory objects."""

    Config = GEMConfig
    acts_from = {**Constrained.acts_from, "memory_strength": 2}
    between_tasks = ("memory_strength",)
    divisible: ClassVar[bool] = False
    revision: ClassVar[int] = 2  # products of old gradients come from their factors, and round otherwise
    paper: ClassVar[str] = "Lopez-Paz and Ranzato 2017, Gradient episodic memory (arXiv 1706.08840)"

    config: GEMConfig

    def __init__(self, config: GEMConfig, context: Context) -> None:
        super().__init__(config, context)
        self._past: OldRows | None = None

    def begin_task(self, task: int, data: TaskData) -> None:
        """Read the old tasks' rows once."""
        if not len(self.memory):
            return
        slots = self.memory.tasks.argsort(stable=True)
        self._past = OldRows(self.replayed(self.memory.read(slots)), self.memory.tasks[slots], slots)
        self._gradients = GroupedGradients(self.network, self._past.batch.x[:1])

    def end_task(self, task: int, data: TaskData) -> None:
        self._past = None

    def past_gradients(self) -> GroupGradients | None:
        """One for each old task that is still in memory, in their order."""
        past = self._past
        if past is None:
            return None
        rows, counts = past.left(self.memory.tasks)
        if not counts:
            return None
        if self.context.augments:
            rows = replace(rows, x=self.context.augment(self.context.normalize(rows.image)))
        return self._gradients(rows.x, lambda some, logits: self.memory_losses(logits, rows[some]), counts)

    def project(self, gradient: Tensor, past: GroupGradients) -> Tensor:
        return project(gradient, past, self.config.memory_strength)


class OldRows:
    """The rows of old tasks, one task after another, less those whose slots a new row takes over.

    Args:
        batch: the rows.
        tasks, slots: int64 ``[rows]``, their tasks and their slots in memory, both on the CPU.
    """

    def __init__(self, batch: Batch, tasks: Tensor, slots: Tensor) -> None:
        self.batch = batch
        self._tasks = tasks
        self._slots = slots
        self._counts = _counts(tasks)

    def left(self, tasks: Tensor) -> tuple[Batch, list[int]]:
        """The rows that are left, and how many of each task that has any, given the tasks of all slots at present."""
        alive = tasks[self._slots] == self._tasks
        if not bool(alive.all()):
            index = alive.nonzero().flatten()
            self.batch = self.batch[index.to(self.batch.y.device)]
            self._tasks, self._slots = self._tasks[index], self._slots[index]
            self._counts = _counts(self._tasks)
        return self.batch, self._counts


def _counts(tasks: Tensor) -> list[int]:
    counts: list[int] = tasks.unique_consecutive(return_counts=True)[1].tolist()
    return counts
