"""What a folder's data set tells of its ended trials, as a search counts them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from raycl.matrix import Verdict
from raycl.results.objectives import costs_of
from raycl.results.outcomes import Record
from raycl.results.reading import matrices
from raycl.results.store import ResultsFolder
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec


class Told:
    """What the folder's data set tells of ended trials: a :data:`raycl.results.outcomes.Recall`.

    Args:
        trials: rows of the trials table by hash.
    """

    def __init__(self, sweep: SweepSpec, results: ResultsFolder, trials: Mapping[str, Mapping[str, Any]]) -> None:
        self._metric = sweep.metric
        self._curves = _curves(results, self._metric) if sweep.pruner is not None else None
        self._trials = trials

    def __call__(self, spec: TrialSpec) -> Record | None:
        trial = self._trials.get(spec.hash)
        if trial is None:
            return None
        num_tasks = spec.learned(trial["num_tasks"] or trial["tasks_done"])
        last = {} if trial["value"] is None or trial["status"] != "finished" else {num_tasks - 1: trial["value"]}
        curve = last if self._curves is None else self._curves.get(spec.hash, {})
        verdict = Verdict(trial["status"], trial["reason"] or "", trial["value"], trial["tasks_done"] - 1)
        return Record(spec, verdict, curve, num_tasks, costs_of(trial))


def _curves(results: ResultsFolder, metric: str) -> dict[str, dict[int, float]]:
    """Task -> metric after it, for every trial; tasks that were not measured are absent."""
    return {
        name: {task: value for task, value in enumerate(matrix.curve(metric)) if not math.isnan(value)}
        for name, matrix in matrices(results).items()
    }
