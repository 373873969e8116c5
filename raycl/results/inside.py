"""Metrics over what was measured while tasks were learned: the stability gap and its kin.

De Lange, van de Ven and Tuytelaars, "Continual evaluation for lifelong learning", ICLR 2023 (arXiv 2205.13452), unless
said otherwise. Of the task that is being learned no minimum is taken: it starts at chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from raycl.matrix import TaskRow

INSIDE_METRICS = (
    "stability_gap",
    "min_accuracy",
    "worst_case_accuracy",
    "average_anytime_accuracy",
    "learning_curve_area",
    "windowed_forgetting",
    "windowed_plasticity",
    "online_accuracy",
)
"""By their names in results, where windowed ones end in the window: ``windowed_forgetting_10``."""
WINDOWS = (10, 100)
"""Measured points over which windowed forgetting and plasticity look."""


class InsideCurves:
    """The accuracies of one trial while it learned, task by task.

    Args:
        rows: in the order of their tasks; those without points are left out.
    """

    def __init__(self, rows: Sequence[TaskRow]) -> None:
        self._points = [row.points for row in rows if row.points is not None]
        self._online = [row.online for row in rows if row.online is not None]

    def curve(self, task: int) -> np.ndarray:
        """float64 ``[points]``: the accuracy on a task at every point at which it was measured, in order."""
        found = [points.accuracy[:, points.tasks == task].ravel() for points in self._points]
        return np.concatenate(found) if found else np.empty(0)

    def _later(self, task: int) -> list[np.ndarray]:
        """Its accuracies while each later task was learned, ``[points]`` each."""
        found = [points.accuracy[:, points.tasks == task].ravel() for points in self._points if points.tasks[-1] > task]
        return [accuracy for accuracy in found if len(accuracy)]

    @property
    def _earlier(self) -> list[int]:
        return sorted({int(task) for points in self._points for task in points.tasks[:-1]})

    def min_accuracy(self) -> float:
        """min-ACC: the least accuracy on a task at any point while a later one was learned, mean over tasks."""
        return _mean([min(map(np.min, self._later(task))) for task in self._earlier])

    def worst_case_accuracy(self) -> float:
        """WC-ACC after the last of k tasks: a_k / k + (1 - 1 / k) min-ACC."""
        if not self._points:
            return math.nan
        last, count = float(self._points[-1].accuracy[-1, -1]), len(self._earlier) + 1
        return last if count == 1 else last / count + (1 - 1 / count) * self.min_accuracy()

    def stability_gap(self) -> float:
        """What a task loses, at the worst point, while a later one is learned: its accuracy just before, less the
        least one during it; mean over all pairs of a task and a later one."""
        return _mean([accuracy[0] - accuracy.min() for task in self._earlier for accuracy in self._later(task)])

    def average_anytime_accuracy(self) -> float:
        """Mean over all points of the mean accuracy over the tasks seen (Caccia et al. 2022)."""
        return _mean([float(row.mean()) for points in self._points for row in points.accuracy])

    def windowed_forgetting(self, window: int) -> float:
        """WF(w): the largest fall of a task's accuracy within ``window`` points in a row, mean over tasks."""
        return self._windowed(window, -1)

    def windowed_plasticity(self, window: int) -> float:
        """WP(w): the largest rise of a task's accuracy within ``window`` points in a row, mean over tasks."""
        return self._windowed(window, 1)

    def _windowed(self, window: int, sign: int) -> float:
        curves = [sign * self.curve(int(points.tasks[-1])) for points in self._points]
        return _mean([largest_rise(curve, window) for curve in curves if len(curve) > 1])

    def online_accuracy(self) -> float:
        """Share of a task's examples that are right when they come for the first time, before they are learned; mean
        over tasks (prequential accuracy; Ghunaim et al. 2023)."""
        return _mean([online.correct / online.total for online in self._online])

    def learning_curve_area(self) -> float:
        """LCA: mean over tasks of the mean accuracy on a task over the points while it is learned, the one before its
        first update included (Chaudhry et al. 2019, there over its first mini-batches)."""
        return _mean([float(points.accuracy[:, -1].mean()) for points in self._points])


def largest_rise(curve: np.ndarray, window: int) -> float:
    """The largest ``curve[j] - curve[i]``, i < j, within ``window`` points in a row; 0 where the curve only falls."""
    rises = [np.max(curve[step:] - curve[:-step], initial=0.0) for step in range(1, min(window, len(curve)))]
    return float(max(rises, default=0.0))


def inside_metrics(rows: Sequence[TaskRow]) -> dict[str, float]:
    """The metrics that are defined, by their names in results; none where nothing was measured inside tasks."""
    curves = InsideCurves(rows)
    found: dict[str, float] = {}
    for name in INSIDE_METRICS:
        metric = getattr(curves, name)
        windowed = name.startswith("windowed")
        found |= {f"{name}_{window}": metric(window) for window in WINDOWS} if windowed else {name: metric()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
