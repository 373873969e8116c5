"""How many examples a limit leaves room for: ``memory.capacity: auto``, so that methods compare at equal memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raycl.errors import Problem, SpecError
from raycl.matrix import Cost
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
    trial: TrialSpec, layout: Layout, rehearse: Callable[[TrialSpec, TaskSource], Sequence[Cost]], rows: int | None
) -> dict[str, float | None]:
    """What a trial holds in the end, by the name of its limit, known without learning: two rehearsals as above.

    Args:
        rows: training rows of the whole stream, which a memory cannot exceed; None where that is not known.
    """
    few, more = (rehearse(_brief(trial, layout, number), _Blank(layout, number))[-1] for number in EXAMPLES)
    held = _held(few)
    if few.buffer_examples and trial.memory.capacity != "auto":
        most = trial.memory.capacity * _units(trial, layout)
        held += int(_each(few, more) * ((most if rows is None else min(most, rows)) - few.buffer_examples))
    return {"max_state_bytes": held, "max_parameters": few.parameters}


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
