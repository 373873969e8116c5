"""Folders with results that were made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from results.made_results import PROVENANCE

from raycl.matrix import TaskRow, Verdict
from raycl.results.store import ResultsFolder
from raycl.spec.trial import TrialSpec


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    sweep = {"name": "tiny", "final": {"seeds": [10, 11, 12]}}
    return ResultsFolder.create(tmp_path / "results", json.dumps(sweep), "abc")


@pytest.fixture
def record(results: ResultsFolder) -> Callable[..., TrialSpec]:
    """Run one trial by hand, from its rows to its verdict."""

    def run(trial: TrialSpec, trial_rows: list[TaskRow], status: str = "finished", **more: Any) -> TrialSpec:
        store = results.trial(trial)
        attempt = store.begin()
        untrained = [one for one in trial_rows if one.task < 0]
        for one in (one for one in trial_rows if one.task >= 0):
            first = untrained if one.task == 0 else []
            store.write_task(attempt, one.task, [*first, one], {"state.json": b"{}"})
        last = trial_rows[-1].task if trial_rows else -1
        verdict = Verdict(status, more.pop("reason", ""), more.pop("value", None), last)  # type: ignore[arg-type]
        store.finish(verdict, PROVENANCE | more)
        return trial

    return run
