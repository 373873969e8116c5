"""Task-, domain- and class-incremental learning: label numbering, logit masks and answers, in one place.

van de Ven and Tolias, "Three scenarios for continual learning", 2019 (arXiv 1904.07734): a scenario is what is
known at test. *task*: the task id is given, the question is which class of that task. *domain*: the id is hidden
and not asked for. *class*: the id is hidden, the question is which of all classes seen.

Output units are numbered in order of appearance. They are *shared* by all tasks where a single head answers a
task-local question (task, domain); otherwise task t owns the units ``offset(t) .. offset(t) + sizes[t] - 1``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from raycl.spec.options import HeadKind, ScenarioName
from raycl.spec.published import long_head, per_task_head
from raycl.spec.training import ActiveLogits


@dataclass(frozen=True)
class Scenario:
    """The scenario of one stream.

    Args:
        name: what is known at test.
        head: one set of output units per task, or a single one; ``auto``: per task where the id is given.
        sizes: number of classes of each task.
        active_logits: which units the training softmax runs over; ``auto`` as in :attr:`policy`.
    """

    name: ScenarioName
    head: HeadKind
    sizes: tuple[int, ...]
    active_logits: ActiveLogits = "auto"

    @property
    def num_tasks(self) -> int:
        return len(self.sizes)

    @property
    def task_given(self) -> bool:
        """Whether the task id is known at test."""
        return self.name == "task"

    @property
    def per_task_head(self) -> bool:
        return per_task_head(self.head, self.name)

    @property
    def shared(self) -> bool:
        """Whether all tasks use the same output units."""
        return self.name != "class" and not self.per_task_head

    @property
    def policy(self) -> Literal["own", "current", "seen", "all"]:
        """The active-logit policy of training, with ``auto`` resolved; recorded with every result."""
        if self.active_logits != "auto":
            return self.active_logits
        if self.per_task_head:
            return "own"
        return "all" if self.shared else "seen"

    @property
    def long_head(self) -> bool:
        """Whether the units that a task's rows do not compete with become so many that they are to be left alone.

        A product of fewer rows may round otherwise: where it pays little, numbers stay those of the whole head.
        """
        return long_head(self.num_tasks) and self.policy in ("own", "current")

    @cached_property
    def _bounds(self) -> tuple[int, ...]:
        return (0, *accumulate(self.sizes))

    @cached_property
    def _largest(self) -> tuple[int, ...]:
        """Classes of the largest of tasks 0..t: asked for in every update, so counted once."""
        return tuple(accumulate(self.sizes, max))

    def offset(self, task: int) -> int:
        """The first output unit of a task."""
        return 0 if self.shared else self._bounds[task]

    @property
    def num_outputs(self) -> int:
        """Output units after the last task."""
        return self._largest[-1] if self.shared else self._bounds[-1]

    def outputs(self, task: int) -> int:
        """Output units that exist once ``task`` has begun: of tasks 0..task, or all where the softmax runs over all."""
        if self.policy == "all":
            return self.num_outputs
        return self._largest[task] if self.shared else self._bounds[task + 1]

    def units(self, task: int) -> range:
        """The output units of a task."""
        return range(self.offset(task), self.offset(task) + self.sizes[task])

    def labels(self, local: Tensor, task: int) -> Tensor:
        """Task-local labels ``[batch]`` -> output units ``[batch]``."""
        return local + self.offset(task)

    def mask(self, task: Tensor, policy: Literal["own", "current", "seen", "all"], current: int) -> Tensor:
        """Which units compete for each row.

        Args:
            task: int64 ``[batch]``, the task of each row.
            policy: ``own``: the row's task; ``current``: task ``current``; ``seen``: tasks 0..current; ``all``.
            current: the task being learned, or the last one learned at test.

        Returns:
            bool ``[batch, outputs(current)]``.
        """
        unit = torch.arange(self.outputs(current), device=task.device)
        if policy == "own":
            lower, upper = self.bounds(task.device)
            return (unit >= lower[task, None]) & (unit < upper[task, None])
        if policy == "current":
            own = self.units(current)
            active = (unit >= own.start) & (unit < own.stop)
        elif policy == "seen":
            seen = self._largest[current] if self.shared else self._bounds[current + 1]
            active = unit < seen
        else:
            active = torch.ones_like(unit, dtype=torch.bool)
        return active.expand(len(task), -1)

    @cached_property
    def _tables(self) -> dict[torch.device, tuple[Tensor, Tensor]]:
        return {}

    def bounds(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """First unit of every task and the unit after its last, int64 ``[num_tasks]``, built once per device."""
        if device not in self._tables:
            lower = torch.tensor([self.offset(task) for task in range(self.num_tasks)], device=device)
            self._tables[device] = lower, lower + torch.tensor(self.sizes, device=device)
        return self._tables[device]

    def answerable(self, task: int, learned: int) -> bool:
        """Whether a network that has learned tasks 0..learned (-1: none) has output units for ``task``."""
        return self.shared or task <= learned

    def answers(self, units: Tensor) -> Tensor:
        """Output units ``[batch]`` -> what is asked for: the unit itself, or its place within its task."""
        if self.name == "class" or self.shared:
            return units
        lower, _ = self.bounds(units.device)
        return units - lower[torch.bucketize(units, lower, right=True) - 1]
