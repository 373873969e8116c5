"""The accuracy matrix of one trial, as counts, and the metrics of continual learning over it.

Row i: after learning task i. Column j: evaluated task j. A cell without examples is null: the network had no output
units for that task, the row was left out (joint training has one row), or nobody asked for it (``evaluation`` of the
sweep file). Metrics are taken over the cells that were measured; each says what it needs, and is NaN without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Cost:
    """What learning one task took, and what the method holds after it.

    Seconds and counts are those of this task alone; bytes, parameters and the buffer's examples are totals after it.
    What is done once in a process (:mod:`raycl.trial.warm_up`) and every evaluation, that of the untrained network
    included, are in no count, and in no seconds but ``evaluation_seconds``.

    Attributes:
        wall_seconds, cpu_seconds: from growing the network to the end of the task.
        evaluation_seconds: of the evaluation after the task, on the wall.
        updates: of the trainer's loop, and those that a method makes beside it.
        examples: rows of the batches that updates are made from, and of a method's extra passes. Rows that a method
            adds to a batch (replays, generated rows, the rows behind a constraint) are not among them: methods compare
            by the two counts below.
        forward_examples: rows through networks, each row once for every network and every pass, as
            :class:`raycl.trial.meter.Meter` counts them.
        gradient_examples: backward passes of rows, alike. Both are None where nobody counted, as in results of before.
        budget_spent: of these, in the unit of ``training.budget``, what the updates took; the rest was spent before or
            after them. None without a budget.
    """

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    updates: int = 0
    examples: int = 0
    parameters: int = 0
    state_bytes: int = 0
    buffer_bytes: int = 0
    buffer_examples: int = 0
    forward_examples: int | None = None
    gradient_examples: int | None = None
    budget_spent: int | None = None

    def evaluated(self, seconds: float) -> Cost:
        """The same cost with the seconds of evaluation filled in."""
        return replace(self, evaluation_seconds=seconds)

    def summed(self, parts: Sequence[Cost]) -> Cost:
        """The same cost with seconds and counts added up over ``parts``; null where one of them has none."""
        found = {name: [getattr(part, name) for part in parts] for name in SPENT}
        sums: dict[str, Any] = {name: None if None in each else sum(each) for name, each in found.items()}
        return replace(self, **sums)


SPENT = (
    "wall_seconds",
    "cpu_seconds",
    "evaluation_seconds",
    "updates",
    "examples",
    "forward_examples",
    "gradient_examples",
    "budget_spent",
)
"""What a task takes, where the other costs are what is held after it."""
COST_COLUMNS = tuple(column.name for column in fields(Cost))


@dataclass(frozen=True)
class Points:
    """Accuracies while one task was learned, as counts on a few examples of each task, the same at every point.

    Attributes:
        update: int64 ``[points]``, updates of the task made before each: 0 first, all of them last, where the method
            has ended the task.
        tasks: int64 ``[tasks]``, those that were followed, the one being learned last.
        correct: int64 ``[points, tasks]``.
        total: int64 ``[tasks]``, examples of each task.
    """

    update: np.ndarray
    tasks: np.ndarray
    correct: np.ndarray
    total: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """float64 ``[points, tasks]``."""
        return np.asarray(self.correct / self.total)


@dataclass(frozen=True)
class Online:
    """Rows of one task that were predicted before they were learned, each once."""

    correct: int
    total: int


Stage = Literal["candidate", "plastic", "stable", "retrain"]
"""Of a choice: a candidate; of stability decay: fine-tuning, and what follows it; what was chosen once more, on all
rows."""


@dataclass(frozen=True)
class Tried:
    """One training of a task by a trial that chooses as it goes.

    Attributes:
        candidate: index of the candidate; in stability decay of the learning rate.
        values: what was tried, by dotted path.
        judged: accuracy by which the choice is made; None where none was measured, or where the training failed.
        kept: whether the trial went on from it.
        failure: why it failed; empty where it did not.
    """

    stage: Stage
    candidate: int
    values: Mapping[str, Any]
    judged: float | None
    kept: bool = False
    failure: str = ""


@dataclass(frozen=True)
class TaskRow:
    """One row of the matrix.

    Attributes:
        task: the task just learned; -1 for the row before training.
        correct, total: int64 ``[num_tasks]``; ``total`` is 0 where the cell is null.
        measures: numbers of the method's own after the task, such as the share of weights that are free, and the
            diagnostics of its network before it that were asked for.
        points, online: what was measured while the task was learned; None where nobody asked.
        tried: what a trial that chooses as it goes has tried, in order; costs are of all of it.
        tested: correct and total of the same cells on test data, of a trial of a table.
    """

    task: int
    correct: np.ndarray
    total: np.ndarray
    cost: Cost = Cost()
    measures: Mapping[str, float] = field(default_factory=dict)
    points: Points | None = None
    online: Online | None = None
    tried: tuple[Tried, ...] = ()
    tested: tuple[np.ndarray, np.ndarray] | None = None


Step = Callable[[np.ndarray, np.ndarray], float]
"""Accuracies and examples of the tasks learned, ``[tasks]`` each, in one row -> a mean."""

METRICS = (
    "average_accuracy",
    "average_incremental_accuracy",
    "pooled_accuracy",
    "pooled_average_incremental_accuracy",
    "learning_accuracy",
    "backward_transfer",
    "forward_transfer",
    "forgetting",
    "forgetting_all_rows",
)
"""Of one matrix alone, by their names in results; each is a method of :class:`AccuracyMatrix`."""


@dataclass(frozen=True)
class Verdict:
    """How a trial ended.

    Attributes:
        value: the search's metric, where there is one.
        task: the last task learned; -1 where none was.
    """

    status: Literal["finished", "pruned", "failed"]
    reason: str = ""
    value: float | None = None
    task: int = -1


def cut_after(curve: Mapping[int, float], cutoffs: Mapping[int, float], num_tasks: int) -> int | None:
    """The first task after which a trial is pruned by its cut-offs; None where it goes on.

    A task that was not measured is never a reason to end, nor is the last one; NaN counts as the worst.

    Args:
        curve: task -> the search metric after it.
        cutoffs: task -> least metric to go on with.
    """
    below = (task for task, cutoff in cutoffs.items() if task in curve and not curve[task] >= cutoff)
    return min((task for task in below if task < num_tasks - 1), default=None)


@dataclass(frozen=True)
class AccuracyMatrix:
    """Accuracies in [0, 1] with NaN for null cells.

    Attributes:
        accuracy: float64 ``[num_tasks, num_tasks]``.
        untrained: float64 ``[num_tasks]``, before training: b_j of forward transfer.
        total: examples behind each cell, ``[num_tasks, num_tasks]``; default: every task weighs the same.
    """

    accuracy: np.ndarray
    untrained: np.ndarray
    total: np.ndarray | None = None

    @classmethod
    def of(cls, rows: Iterable[TaskRow], num_tasks: int) -> AccuracyMatrix:
        """Build the matrix from rows in any order; missing rows stay null."""
        correct = np.zeros((num_tasks + 1, num_tasks), dtype=np.int64)
        total = np.zeros_like(correct)
        for row in rows:
            correct[row.task + 1], total[row.task + 1] = row.correct, row.total
        return cls.from_counts(correct, total)

    @classmethod
    def from_counts(cls, correct: np.ndarray, total: np.ndarray) -> AccuracyMatrix:
        """From counts ``[1 + num_tasks, num_tasks]``, the row before training first; 0 of 0 is a null cell."""
        accuracy = _shares(correct, total)
        return cls(accuracy[1:], accuracy[0], total[1:])

    @classmethod
    def from_array(
        cls, accuracy: Sequence[Sequence[float]], untrained: Sequence[float] | None = None
    ) -> AccuracyMatrix:
        values = np.asarray(accuracy, dtype=float)
        start = np.full(len(values), np.nan) if untrained is None else np.asarray(untrained, dtype=float)
        return cls(values, start)

    @property
    def num_tasks(self) -> int:
        return len(self.accuracy)

    @property
    def sizes(self) -> np.ndarray:
        """Examples of each task, ``[num_tasks]``; 0 where no row has measured it, ones where counts are not known."""
        return np.ones(self.num_tasks) if self.total is None else self.total.max(axis=0, initial=0)

    def average_accuracy(self, after: int | None = None) -> float:
        """ACC: mean over the tasks learned of the accuracy after task ``after`` (Lopez-Paz and Ranzato 2017).

        Every task weighs the same, whatever its size; where a sample of the tasks was measured, it is their mean.
        """
        return self._after(_task_mean, self.num_tasks - 1 if after is None else after)

    def pooled_accuracy(self, after: int | None = None) -> float:
        """Share of all examples of the tasks learned that are right after task ``after``: every image weighs the same.

        What papers on class-incremental learning report, such as Rebuffi et al. 2017 (iCaRL).
        """
        return self._after(_image_mean, self.num_tasks - 1 if after is None else after)

    def _after(self, of_step: Step, row: int) -> float:
        """A mean over the tasks learned, in the row after task ``row``."""
        weights = np.ones(row + 1) if self.total is None else self.total[row, : row + 1]
        return of_step(self.accuracy[row, : row + 1], weights)

    def average_incremental_accuracy(self, after: int | None = None) -> float:
        """Mean over steps i, the first included, of the average accuracy after task i; steps without a row are left
        out. Where tasks differ in size this is not iCaRL's figure: :meth:`pooled_average_incremental_accuracy` is."""
        return self.curve("average_incremental_accuracy")[self.num_tasks - 1 if after is None else after]

    def pooled_average_incremental_accuracy(self, after: int | None = None) -> float:
        """Mean over steps i, the first included, of the pooled accuracy after task i (Rebuffi et al. 2017)."""
        return self.curve("pooled_average_incremental_accuracy")[self.num_tasks - 1 if after is None else after]

    def curve(self, metric: str) -> list[float]:
        """A search metric after each task; NaN where it is not defined.

        Args:
            metric: ``average_accuracy`` or ``average_incremental_accuracy``, each also with ``pooled_`` before it.
        """
        of_step, runs = _CURVES[metric]
        steps = [self._after(of_step, task) for task in range(self.num_tasks)]
        return [_running_mean(steps[: task + 1]) for task in range(self.num_tasks)] if runs else steps

    def learning_accuracy(self) -> float:
        """LA: mean of the diagonal. ACC = LA + (T - 1) / T * BWT where the matrix is whole.

        NaN where the last task alone was measured right after it was learned.
        """
        return _mean(self._right_after)

    @property
    def _right_after(self) -> np.ndarray:
        """``[num_tasks]``: each task right after it was learned; all NaN where the last alone has a row of its own, as
        in joint training, which says nothing of how tasks are learned one after another."""
        diagonal = np.diagonal(self.accuracy)
        alone = self.num_tasks > 1 and np.isnan(diagonal[:-1]).all()
        return np.full_like(diagonal, np.nan) if alone else diagonal

    def backward_transfer(self) -> float:
        """BWT: mean over j < T of R[T, j] - R[j, j]; negative means forgetting. NaN for one task.

        Tasks that were not measured right after they were learned are left out.
        """
        return _mean(self.accuracy[-1, :-1] - self._right_after[:-1])

    def forward_transfer(self) -> float:
        """FWT: mean over j >= 2 of R[j-1, j] - b_j, over the tasks of which both were measured."""
        return _mean(np.diagonal(self.accuracy, offset=1) - self.untrained[1:])

    def forgetting(self) -> float:
        """Mean over j < T of max over i in j..T-1 of R[i, j], minus R[T, j]: what was lost of what had been learned.

        Only rows from task j's own on count. Chaudhry et al. 2018 take the maximum over all rows before the last,
        those before task j was learned too: :meth:`forgetting_all_rows`. Tasks that were not measured right after they
        were learned are left out.
        """
        return _mean(self.forgetting_of_tasks())

    def forgetting_of_tasks(self) -> np.ndarray:
        """``[num_tasks - 1]``: what was lost of each task but the last; NaN where it was not measured in time."""
        return self._lost(np.tri(self.num_tasks, dtype=bool))

    def forgetting_all_rows(self) -> float:
        """F_T of Chaudhry et al. 2018: mean over j < T of max over l in 1..T-1 of R[l, j], minus R[T, j].

        At least :meth:`forgetting`, and more where a task was answered better before it was learned than ever after.
        A departure: null cells, such as those above the diagonal without output units yet, are left out of the maximum.
        """
        return _mean(self._lost(np.ones((self.num_tasks, self.num_tasks), dtype=bool)))

    def _lost(self, counts: np.ndarray) -> np.ndarray:
        """Of each j < T the best cell among those that count, the last row aside, minus R[T, j]."""
        known = np.where(counts & ~np.isnan(self.accuracy), self.accuracy, -np.inf)[:-1, :-1]
        best = np.where(np.isnan(self._right_after[:-1]), np.nan, known.max(axis=0, initial=-np.inf))
        return np.asarray(best - self.accuracy[-1, :-1])

    def intransigence(self, reference: Sequence[float] | np.ndarray) -> float:
        """Mean over t of a*_t - R[t, t]; a*_t is a reference, of cumulative training (Chaudhry et al. 2018).

        Over the tasks that were measured right after they were learned; NaN where that is the last alone.
        """
        return _mean(np.asarray(reference, dtype=float) - self._right_after)

    def metrics(self) -> dict[str, float]:
        """All metrics that need no reference, by their names in results."""
        return {name: float(getattr(self, name)()) for name in METRICS}


@dataclass
class Curve:
    """What :meth:`AccuracyMatrix.curve` gives, row by row, so that none has to be kept for it.

    Attributes:
        metric: a search metric.
        values: task -> the metric after it; tasks after which it is not defined are absent.
    """

    metric: str
    values: dict[int, float] = field(default_factory=dict)
    _steps: list[float] = field(default_factory=list)

    def add(self, rows: Iterable[TaskRow]) -> None:
        """Take in the next rows, in the order of their tasks; that before training counts for nothing."""
        of_step, runs = _CURVES[self.metric]
        for row in rows:
            if row.task < 0:
                continue
            own = slice(row.task + 1)
            step = of_step(_shares(row.correct[own], row.total[own]), row.total[own])
            self._steps.append(step)
            value = _running_mean(self._steps) if runs else step
            if not math.isnan(value):
                self.values[row.task] = value


def _shares(correct: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Accuracies, NaN where nothing was counted."""
    return np.where(total > 0, correct / np.maximum(total, 1), np.nan)


def _task_mean(accuracy: np.ndarray, total: np.ndarray) -> float:
    """Over the tasks of one row ``[tasks]``."""
    return _mean(accuracy)


def _image_mean(accuracy: np.ndarray, total: np.ndarray) -> float:
    """Over the examples of the tasks of one row ``[tasks]``."""
    known = ~np.isnan(accuracy)
    return float(total[known] @ accuracy[known] / total[known].sum()) if known.any() else math.nan


_CURVES: dict[str, tuple[Step, bool]] = {
    "average_accuracy": (_task_mean, False),
    "average_incremental_accuracy": (_task_mean, True),
    "pooled_accuracy": (_image_mean, False),
    "pooled_average_incremental_accuracy": (_image_mean, True),
}
"""Search metric -> its value at a step, and whether it is the running mean of these."""


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are defined; NaN where none is."""
    defined = values[~np.isnan(values)]
    return float(np.mean(defined)) if len(defined) else math.nan


def _running_mean(steps: Sequence[float]) -> float:
    """Mean of the steps that are defined; NaN where the last is not."""
    defined = [step for step in steps if not math.isnan(step)]
    return math.fsum(defined) / len(defined) if defined and not math.isnan(steps[-1]) else math.nan
