"""Results made by hand: the counts are chosen, so every figure can be checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from raycl.matrix import Cost, TaskRow
from raycl.spec.options import MemoryConfig, TrainingConfig
from raycl.spec.trial import TrialSpec

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
