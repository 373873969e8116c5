"""The metrics of a trial's run in MLflow, each figure under one name. No MLflow here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from raycl.matrix import AccuracyMatrix, TaskRow
from raycl.results import schema
from raycl.results.inside import inside_metrics

MOST_TASK_METRICS = 20
"""Up to so many tasks each evaluated task is a metric of its own; beyond, the matrix is in the artifacts."""
COST_METRICS = (
    "wall_seconds",
    "cpu_seconds",
    "updates",
    "examples",
    *schema.COUNTED_LATER,
    "parameters",
    "state_bytes",
    "buffer_bytes",
)
CURVES = ("average_accuracy", "average_incremental_accuracy")
"""Metrics after every task; the last of them is the final one."""


def metrics_of(rows: Sequence[TaskRow]) -> Iterator[tuple[int, str, float]]:
    """(task, metric, value): curves over tasks, cost of each task, and the final metrics at the last task."""
    learned = [row for row in rows if row.task >= 0]
    if not learned:
        return
    num_tasks = len(learned[0].total)
    matrix = AccuracyMatrix.of(rows, num_tasks)
    measured: list[float] = []
    for row in learned:
        average = matrix.average_accuracy(row.task)
        measured += [average] if math.isfinite(average) else []
        yield row.task, "average_accuracy", average
        yield row.task, "average_incremental_accuracy", math.fsum(measured) / len(measured) if measured else math.nan
        for name in COST_METRICS:
            value = getattr(row.cost, name)
            if value is not None:
                yield row.task, f"cost/{name}", float(value)
        for name, value in row.measures.items():
            yield row.task, f"measure/{name}", value
        if num_tasks <= MOST_TASK_METRICS:
            for task, value in enumerate(matrix.accuracy[row.task], start=1):
                yield row.task, f"accuracy/task_{task:02d}", float(value)
    for name, value in (matrix.metrics() | inside_metrics(learned)).items():
        if name not in CURVES and not _is_mean(name, matrix):
            yield learned[-1].task, name, value


def _is_mean(name: str, matrix: AccuracyMatrix) -> bool:
    """Whether a pooled metric says what the mean over tasks says, as all of them are of one size."""
    return name.startswith("pooled_") and len({*matrix.sizes[matrix.sizes > 0].tolist()}) == 1
