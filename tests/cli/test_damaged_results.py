"""Results folders that something has damaged: what counts is kept, and the rest is told in one line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from mistakes import TASKS, contents, learned, opened, refused, tried, truncate
from support import counts

from raycl.catalog import catalog
from raycl.results.store import ResultsFolder
from raycl.results.trackers import mlflow as tracking
from raycl.spec.sweep import SweepSpec

Damage = Callable[[Path], object]
Rows = list[tuple[int, list[int], list[int]]]
DAMAGED: dict[str, Damage] = {
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "a list": lambda path: path.write_text("[]"),
    "without its keys": lambda path: path.write_text('{"format": 1}'),
}


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A results folder with one trial whose last task is missing."""
    return learned(tmp_path / "results", TASKS - 1)


@pytest.fixture
def whole(tmp_path: Path) -> Rows:
    """The rows of the same trial where nothing happened to it; the first is from before training."""
    _, rows = ended(tmp_path / "whole")
    assert [row[0] for row in rows] == [-1, *range(TASKS)]
    return rows


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_sweep_json(file: Path, finished: Path, damage: Damage) -> None:
    head = finished / "sweep.json"
    damage(head)
    before = contents(finished)
    for command in (("show", finished), ("resume", finished), tried(file, "--results", finished)):
        told = refused(*command)
        assert told.startswith(f"error: {head}: damaged; delete this file and give `raycl run` the sweep file")
    assert contents(finished) == before
    head.unlink()
    assert "sweep.json is missing" in refused("show", finished)
    sweep = SweepSpec.load(file, catalog())
    assert len(ResultsFolder.create(finished, sweep.dumps(), sweep.hash).ended()) == 1
    assert contents(finished) == {**before, "sweep.json": contents(finished)["sweep.json"]}


def test_a_damaged_specification_is_not_taken_for_a_broken_tracking_server(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_Runs", lambda *given: None)
    (spec,) = finished.glob("trials/*/spec.json")
    truncate(spec)
    before = contents(finished)
    assert refused("sync", finished).startswith(f"error: {spec}: not a complete specification; delete this trial's")
    assert contents(finished) == before


def ended(folder: Path) -> tuple[list[int], Rows]:
    """Go on with the trial; the tasks that were learned now, and the rows of all."""
    session, store = opened(folder)
    steps = [session.step()]
    while steps[-1].verdict is None:
        steps.append(session.step())
    session.close()
    assert steps[-1].verdict.status == "finished"
    return [step.task for step in steps], counts(store.rows())


def test_a_truncated_checkpoint_falls_back_to_the_one_before(
    stopped: Path, whole: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    (state,) = stopped.glob("trials/*/ckpt/0001-0000/*.safetensors")
    truncate(state)
    with caplog.at_level(logging.WARNING):
        tasks, rows = ended(stopped)
    assert tasks == [1, 2], "task 1 again, and not task 0"
    assert rows == whole
    assert "skipped a torn checkpoint" in caplog.text


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_torn_manifest_costs_one_task(
    stopped: Path,
    whole: Rows,
    damage: Damage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (manifest,) = stopped.glob("trials/*/manifests/0001-0000.json")
    damage(manifest)
    with caplog.at_level(logging.WARNING):
        tasks, rows = ended(stopped)
    assert tasks == [1, 2]
    assert rows == whole
    assert f"skipped a torn manifest {manifest}" in caplog.text
