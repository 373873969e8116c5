"""Finished trials of another folder are taken by their hash."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from sweeping import SWEEP, attempts, content, parsed, pretend

from raycl.errors import DataError, StoreError
from raycl.results.reading import read_trials
from raycl.results.store import ResultsFolder
from raycl.spec.sweep import SweepSpec
from raycl.sweep.backend import RunOptions
from raycl.sweep.job import Job
from raycl.sweep.reuse import Elsewhere
from raycl.sweep.run import run_sweep

SMALL = SWEEP.replace("  replay: {memory.capacity: {choice: [20, 50, 100]}}\n", "").replace("trials: 5", "trials: 2")
LARGER = SMALL.replace("seeds: [10, 11]", "seeds: [10, 11, 12]")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert run_sweep(parsed(SMALL), folder, backend="here").complete
    return folder


def reused(text: str, folder: Path, other: Path) -> None:
    sweep: SweepSpec = parsed(text)
    outcome = run_sweep(sweep, folder, backend="here", options=RunOptions(reuse=(str(other),)))
    assert outcome.complete, outcome.reason


def test_finished_trials_of_another_folder_are_not_run_again(tmp_path: Path, finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    reused(LARGER, tmp_path / "reused", finished)
    assert run_sweep(parsed(LARGER), tmp_path / "anew", backend="here").complete
    assert content(tmp_path / "reused") == content(tmp_path / "anew")
    began = {path.parent.parent.name for path in (tmp_path / "reused").glob("trials/*/attempts/*")}
    hosts = json.loads(next((tmp_path / "reused").glob("trials/*/attempts/0000.json")).read_text())
    assert began == set(attempts(tmp_path / "anew"))
    assert hosts
    rows = read_trials(tmp_path / "reused").to_pylist()
    came = {row["trial"]: json.loads(row["provenance"]).get("reused_from") for row in rows}
    fresh = {name for name, origin in came.items() if origin is None}
    assert fresh == {row["trial"] for row in rows if row["phase"] == "final" and row["seed"] == 12}
    assert {origin for origin in came.values() if origin} == {ResultsFolder.open(finished).uri}
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_trials_of_other_code_are_run_again_and_told(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("raycl.sweep.reuse.differing_code", lambda *given: ("strategy",))
    with caplog.at_level(logging.WARNING):
        reused(SMALL, tmp_path, finished)
    assert "is not reused: its strategy has other code" in caplog.text
    assert not any("reused_from" in row["provenance"] for row in read_trials(tmp_path).to_pylist())


def test_a_trial_of_which_an_objective_was_not_counted_is_run_again(tmp_path: Path) -> None:
    """As an earlier raycl has left it: it counted no gradients, and bytes."""
    sweep = parsed(SMALL)
    spec = sweep.trial(sweep.entries[0], {"training.learning_rate": 1e-3}, 0, "search")
    other, here = (ResultsFolder.create(tmp_path / name, sweep.dumps(), sweep.hash) for name in ("other", "here"))
    pretend(other, Job(spec, {}))
    assert not Elsewhere([other], sweep.catalog, ("state_bytes", "gradient_examples")).bring(spec, here)
    assert Elsewhere([other], sweep.catalog, ("state_bytes",)).bring(spec, here)


def test_a_folder_that_is_none_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no results folder of raycl"):
        run_sweep(parsed(SMALL), tmp_path / "new", backend="here", options=RunOptions(reuse=(str(tmp_path / "none"),)))


def test_data_of_another_folder_must_be_those_of_today(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = read_trials(finished)
    column = table.column_names.index("data")
    other = table.set_column(column, "data", [["0" * 16] * table.num_rows])
    monkeypatch.setattr("raycl.sweep.reuse.read_trials", lambda folder: other)
    with pytest.raises(DataError, match="data"):
        reused(SMALL, tmp_path, finished)
    assert list(ResultsFolder.open(tmp_path).ended()) == [], "nothing is taken before that is known"


def test_a_folder_of_which_all_is_found_elsewhere_trains_nothing(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raycl.sweep.here._HereEngine.drive", lambda *given: pytest.fail("there is nothing to run"))
    reused(SMALL, tmp_path, finished)
    assert content(tmp_path) == content(finished)
