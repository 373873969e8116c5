"""Sweeps for tests of the runner: pretended trials without Ray, and what of a folder must be equal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from raycl.catalog import catalog
from raycl.matrix import AccuracyMatrix, Cost, TaskRow, Verdict
from raycl.results.reading import read_cells, read_trials
from raycl.results.store import ResultsFolder
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec
from raycl.sweep.dispatch import Dispatcher, NothingLeft
from raycl.sweep.job import Job
from raycl.sweep.ledger import Ledger

TASKS = 5
ROWS = 1000

HEAD = """
name: small
stream: {name: split, dataset: digits, tasks: 5, scenario: class, validation_fraction: 0.2}
model: {name: mlp, hidden: [24]}
training: {optimizer: adam, learning_rate: 2e-3, batch_size: 32, iterations: 20}
memory: {capacity: 50}
"""

SWEEP = (
    HEAD
    + """
strategies:
  naive: {training.learning_rate: {loguniform: [1e-4, 1e-2]}}
  replay: {memory.capacity: {choice: [20, 50, 100]}}
search: {trials: 5, generation: 2, startup: 2, seeds: [0], finalists: {top: 2, seeds: [1]}}
final: {seeds: [10, 11]}
"""
)


def parsed(text: str) -> SweepSpec:
    return SweepSpec.parse(text, catalog())


def ledger(sweep: SweepSpec, folder: Path, **options: Any) -> Ledger:
    """A ledger over a results folder, created where it is not there."""
    return Ledger(ResultsFolder.create(folder, sweep.dumps(), sweep.hash), **options)


def accuracy(spec: TrialSpec, task: int) -> float:
    """A made-up accuracy after a task, smooth in the learning rate and the capacity, different for every seed."""
    rate, capacity = math.log10(spec.training.learning_rate), spec.memory.capacity
    wobble = math.sin(17 * spec.seed + 3 * task + 5 * rate) / 50
    return min(1.0, max(0.0, 0.9 - 0.1 * (rate + 2.7) ** 2 - 0.05 * task + capacity / 2000 + wobble))


def pretend(results: ResultsFolder, job: Job, fails: Callable[[TrialSpec], bool] = lambda spec: False) -> None:
    """Leave in the store what a real session would, with :func:`accuracy` instead of learning."""
    store = results.trial(job.spec)
    attempt = store.begin()
    store.restore()  # what is written now continues it
    rows = {row.task: row for row in store.rows()}
    learned = job.spec.learned(TASKS)
    for task in range(learned):
        if task not in rows:
            correct = np.zeros(TASKS, dtype=np.int64)
            correct[: task + 1] = round(ROWS * accuracy(job.spec, task))
            cost = Cost(parameters=100, state_bytes=1000, buffer_bytes=80 * job.spec.memory.examples)
            rows[task] = TaskRow(task, correct, np.full(TASKS, ROWS), cost)
            store.write_task(attempt, task, [rows[task]], {"state": b"x"}, {})
        if fails(job.spec) and task == 1:
            store.finish(Verdict("failed", "the loss is not finite", None, task), {"num_tasks": TASKS})
            return
        value = AccuracyMatrix.of(list(rows.values()), TASKS).average_accuracy(task)
        if task < learned - 1 and value < job.cutoffs.get(task, -1.0):
            store.finish(Verdict("pruned", "below the cut-off", value, task), {"num_tasks": TASKS})
            return
    store.finish(Verdict("finished", "", value, learned - 1), {"num_tasks": TASKS})


def play(
    dispatcher: Dispatcher,
    results: ResultsFolder,
    order: Callable[[list[str]], str] = lambda ids: ids[0],
    **options: Any,
) -> list[Job]:
    """Run a phase as Tune would, ending one of the running trials at a time. Returns the jobs in launching order."""
    launched, number = [], 0
    while True:
        found = dispatcher.suggest(f"t{number}")
        if found is NothingLeft:
            return launched
        if isinstance(found, Job):
            launched.append(found)
            number += 1
            continue
        assert dispatcher.running, "the phase waits for a trial that nobody runs"
        chosen = order(list(dispatcher.running))
        pretend(results, dispatcher.running[chosen], **options)
        dispatcher.completed(chosen)


def decisions(folder: str | Path) -> dict[str, Any]:
    """All that a sweep decided: suggestions and winners, by file."""
    root = Path(folder)
    files = sorted([*root.glob("suggestions/**/*.json"), *root.glob("winners/**/*.json")])
    return {str(file.relative_to(root)): json.loads(file.read_text()) for file in files}


def content(folder: str | Path) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """All of a folder that must be equal for equal sweeps: decisions, matrices, and trials without what they cost."""
    cells = sorted(map(str, read_cells(folder).to_pylist()))
    free = ("seconds", "provenance", "bytes", "commit")  # whoever runs tests may be at work on the code
    trials = [
        {name: value for name, value in trial.items() if not name.endswith(free)}
        for trial in sorted(read_trials(folder).to_pylist(), key=lambda trial: trial["trial"])
    ]
    return decisions(folder), cells, list(map(str, trials))


def attempts(folder: str | Path) -> dict[str, int]:
    """Attempts of every trial, by hash."""
    return {path.name: len(list((path / "attempts").iterdir())) for path in Path(folder, "trials").iterdir()}
