"""Results made by hand: the counts are chosen, so every figure can be checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raycl.catalog import catalog
from raycl.matrix import Cost, TaskRow, Verdict
from raycl.results.comparison import Line, lines
from raycl.results.decisions import suggestion_path, winner_path
from raycl.results.outcomes import Record
from raycl.results.store import ResultsFolder
from raycl.results.trackers.mlflow import MLflowMirror
from raycl.spec.memory import MemoryConfig
from raycl.spec.sweep import SweepSpec
from raycl.spec.training import TrainingConfig
from raycl.spec.trial import SweepPhase, TrialSpec

HEAD = """
name: tiny
stream: {name: permuted, dataset: digits, tasks: 3, scenario: class}
model: {name: mlp, hidden: [20]}
memory: {capacity: 10}
"""

PROVENANCE = {
    "num_tasks": 3,
    "split_hash": "feed",
    "active_logits": "seen",
    "inference_batch": 1,
    "upper_bound": False,
    "torch": "2.0",
    "threads": 1,
    "cpu_capability": "AVX2",
}


def spec(alias: str = "ewc", seed: int = 10, **changes: Any) -> TrialSpec:
    """A trial's specification; ``changes`` replace its fields."""
    fields: dict[str, Any] = {
        "alias": alias,
        "strategy": alias,
        "options": {"penalty": 10.0, "mode": "online", "layers": [1, 2]},
        "stream": {"name": "split", "dataset": "digits", "scenario": "class", "tasks": 3},
        "model": {"name": "mlp", "hidden": [20, 20]},
        "training": TrainingConfig(),
        "memory": MemoryConfig(),
        "point": {"penalty": 10.0},
        "seed": seed,
    }
    return TrialSpec(**{**fields, **changes})


def row(task: int, percent: list[float], wall: float = 1.0) -> TaskRow:
    """A row of accuracies over 100 examples a task; NaN for a null cell."""
    values = np.array(percent, dtype=float)
    total = np.where(np.isnan(values), 0, 100)
    correct = np.nan_to_num(values).astype(np.int64)
    return TaskRow(task, correct, total, Cost(wall, wall / 2, 0.1, 7, 70, 1000, 4000, 500, 5))


def rows(shift: int = 0) -> list[TaskRow]:
    """The example of the metrics' reference: ACC .6, LA .8, BWT -.3, FWT .1, F .3, AAA .75 at shift 0."""
    table = [[10, 10, 10], [90, 10, 20], [70, 80, 30], [60, 50, 70]]
    return [row(task - 1, [value + shift for value in values]) for task, values in enumerate(table)]


class Made:
    """A results folder whose trials end as a test says."""

    def __init__(self, folder: Path, text: str) -> None:
        self.sweep = SweepSpec.parse(text, catalog())
        self.results = ResultsFolder.create(folder, self.sweep.dumps(), self.sweep.hash)

    def suggest(self, alias: str, capacities: Sequence[int], cutoffs: Mapping[str, float] | None = None) -> None:
        for index, capacity in enumerate(capacities):
            suggestion = {"point": {"memory.capacity": capacity}, "cutoffs": cutoffs or {}}
            self.results.write_json_once(suggestion_path(self.sweep.entry(alias), index), suggestion)

    def win(self, alias: str, capacity: int) -> None:
        self.results.write_json_once(winner_path(self.sweep.entry(alias)), {"point": {"memory.capacity": capacity}})

    def spec(self, alias: str, capacity: int | None, seed: int, phase: SweepPhase = "search") -> TrialSpec:
        point = {} if capacity is None else {"memory.capacity": capacity}
        return self.sweep.trial(self.sweep.entry(alias), point, seed, phase)

    def end(
        self,
        alias: str,
        capacity: int | None,
        seed: int,
        accuracy: float | None,
        phase: SweepPhase = "search",
        **more: Any,
    ) -> TrialSpec:
        """End a trial under the names of one entry: with an accuracy in per cent after its last task, else failed."""
        spec = self.spec(alias, capacity, seed, phase)
        store = self.results.trial(spec)
        attempt = store.begin()
        if accuracy is not None:
            correct, total = np.full(3, round(100 * accuracy)), np.full(3, 10_000)
            store.write_task(attempt, 2, [TaskRow(2, correct, total, Cost(1, 1, 0, 7, 70, 1000, 4000, 500))], {})
        status = more.pop("status", "failed" if accuracy is None else "finished")
        value = more.pop("value", None if accuracy is None else accuracy / 100)
        verdict = Verdict(status, more.pop("reason", ""), value if status == "finished" else None, 2)
        provenance = {**PROVENANCE, "upper_bound": more.pop("upper_bound", False)}
        store.finish(verdict, provenance, **more)
        return spec

    def line(self, alias: str) -> Line:
        (found,) = [line for line in lines(self.results) if line.alias == alias]
        return found


def mirrored(results: ResultsFolder, *trials: TrialSpec) -> bool:
    """Tell MLflow's mirror of trials, as a sweep does at its end; whether it could log them all."""
    mirror = MLflowMirror(results)
    for trial in trials:
        mirror.add(Record(trial, Verdict("finished"), {}, 1))
    mirror.finish()
    return not mirror.dirty
