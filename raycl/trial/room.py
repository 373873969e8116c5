"""How many examples a limit leaves room for: ``memory.capacity: auto``, so that methods compare at equal memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raycl.errors import Problem, SpecError
from raycl.matrix import Cost
from raycl.spec.options import EXACT
from raycl.spec.setting import Setting
from raycl.spec.sweep_options import LimitsConfig
from raycl.spec.trial import TrialSpec
from raycl.streams.task import Layout, Part, Recipe, SplitName, TaskSource

EXAMPLES = (2, 4)
"""Examples of each class that two rehearsals learn from; of the difference in bytes a row is known."""


def with_room(
    trial: TrialSpec, layout: Layout, rehearse: Callable[[TrialSpec, TaskSource], Sequence[Cost]]
) -> TrialSpec:
    """The same trial with a number for ``memory.capacity: auto``: the most examples that ``limits.max_state_bytes`` has
    room for after every task, beside what the method itself keeps (networks, teachers, importances, stored logits).

    Found by two rehearsals on blank images, with memories of two sizes: what a method keeps beside a given number of
    examples does not depend on what they show.

    Args:
        layout: of the tasks that the trial sees, without those that it leaves out.
        rehearse: learns every task of a stream as briefly as can be, and tells what each cost.

    Raises:
        SpecError: there is room for none.
    """
    limit = trial.limits.max_state_bytes
    if trial.memory.capacity != "auto" or limit is None or not trial.uses_memory:
        return trial
    few, more = (rehearse(_brief(trial, layout, rows), _Blank(layout, rows)) for rows in EXAMPLES)
    fitting = [_fitting(*pair, limit) for pair in zip(few, more, strict=True) if pair[0].buffer_examples]
    capacity = min(fitting) // _units(trial, layout)
    if capacity < 1:
        rule = (
            f"limits.max_state_bytes leaves no room for examples beside the {few[-1].state_bytes:,} bytes that "
            f"{trial.strategy} keeps itself; enlarge it, or make the model smaller"
        )
        raise SpecError([Problem("memory.capacity", rule, f"{limit:,}")])
    return trial.model_copy(update={"memory": trial.memory.model_copy(update={"capacity": capacity})})


def needs(
    trial: TrialSpec,
    setting: Setting,
    layout: Layout,
    rehearse: Callable[[TrialSpec, TaskSource], Sequence[Cost]],
    rows: int | None,
) -> dict[str, float | None]:
    """The most that a trial holds after any task, by the name of its limit, known without learning: two rehearsals as
    above. Exact where the replay memory is full; elsewhere as exact as the rows of each class are known.

    Args:
        setting: of the trial.
        rows: training rows of each task, which a memory cannot exceed; None where that is not known.
    """
    few, more = (rehearse(_brief(trial, layout, number), _Blank(layout, number)) for number in EXAMPLES)
    held = [_held(cost) for cost in few]
    if few[-1].buffer_examples and trial.memory.capacity != "auto":
        small, large = (
            _even(costs, _remembered(_brief(trial, layout, number), setting, layout, number))
            for costs, number in zip((few, more), EXAMPLES, strict=True)
        )
        whole = _remembered(trial, setting, layout, None, rows)
        held = [_extended(*after) for after in zip(small, large, whole, strict=True)]
    return {"max_state_bytes": max(held), "max_parameters": max(cost.parameters for cost in few)}


Held = tuple[int, int]
"""Rows of a replay memory, and bytes."""


def _remembered(
    trial: TrialSpec, setting: Setting, layout: Layout, each: int | None, rows: int | None = None
) -> list[Held]:
    """After each task the rows of the memory, and what is kept beside them that does not grow evenly.

    Args:
        each: rows of each class; None: as many as there are.
        rows: of each task, shared out among its classes.
    """
    offered: list[dict[int, int]] = []
    start = 0
    for size in map(len, layout.classes):
        most, more = divmod(EXACT if rows is None else rows, size)
        offered.append({start + unit: (unit < more) + most if each is None else each for unit in range(size)})
        start += 0 if setting.shared_units else size
    keep = setting.strategy.remembered
    return [keep(trial.memory, setting.selection, offered[: task + 1]) for task in range(layout.num_tasks)]


def _even(costs: Sequence[Cost], remembered: Sequence[Held]) -> list[Held]:
    """After each task the rows of the memory, and the bytes that are held but for what does not grow evenly."""
    return [(cost.buffer_examples, _held(cost) - beside) for cost, (_, beside) in zip(costs, remembered, strict=True)]


def _extended(few: Held, more: Held, whole: Held) -> int:
    """Bytes beside so many rows, on the line through what two memories hold, and what does not lie on it."""
    (start, held), (end, further), (rows, beside) = few, more, whole
    return held + (further - held) * (rows - start) // max(1, end - start) + beside


def _fitting(few: Cost, more: Cost, limit: int) -> int:
    """Examples that fit after a task, of which two memories have told the bytes."""
    return int((limit - _held(few)) / _each(few, more)) + few.buffer_examples


def _held(cost: Cost) -> int:
    """Bytes kept after a task."""
    return cost.state_bytes + cost.buffer_bytes


def _each(few: Cost, more: Cost) -> float:
    """Bytes of an example, by what two memories hold."""
    return (_held(more) - _held(few)) / (more.buffer_examples - few.buffer_examples)


def _units(trial: TrialSpec, layout: Layout) -> int:
    """How many units ``memory.capacity`` counts for."""
    return {"total": 1, "class": sum(map(len, layout.classes)), "task": layout.num_tasks}[trial.memory.unit]


def _brief(trial: TrialSpec, layout: Layout, rows: int) -> TrialSpec:
    """The trial with all rows of a task in one batch, a memory that could keep them all, and as little measured as can
    be."""
    classes = [len(own) for own in layout.classes]
    capacity = {"total": rows * sum(classes), "class": rows, "task": rows * max(classes)}[trial.memory.unit]
    lengths = {"epochs": 1, "iterations": None, "budget": None, "real_time": False}
    measured = {"every": "end", "future_tasks": False, "inside": None, "online": False, "diagnostics": ()}
    changed: Mapping[str, object] = {
        "training": trial.training.model_copy(update={"batch_size": rows * max(classes), **lengths}),
        "memory": trial.memory.model_copy(update={"capacity": capacity}),
        "limits": LimitsConfig(),
        "skipped_tasks": 0,  # the layout is that of the tasks that are left
        "evaluation": trial.evaluation.model_copy(update=measured),
    }
    return trial.model_copy(update=changed)


@dataclass(frozen=True)
class _Blank:
    """A stream of the same layout with a few blank images of each class."""

    layout: Layout
    rows: int

    @cached_property
    def _images(self) -> np.ndarray:
        most = self.rows * max(map(len, self.layout.classes))
        return np.zeros((most, *self.layout.image_shape), dtype=self.layout.dtype)

    def part(self, task: int, split: SplitName) -> Part:
        labels = np.repeat(np.arange(len(self.layout.classes[task])), self.rows)
        return Part(self._images, np.arange(len(labels)), labels, Recipe(), "blank")

    def prefetch(self, task: int, split: SplitName) -> None:
        """There is nothing to fetch."""
