"""The data set of a sweep that has finished is one file a kind, and says the same at any moment on the way there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
from results.made_results import rows, spec

from raycl.errors import StoreError, TornFile
from raycl.matrix import Online, Points, TaskRow
from raycl.results import collected, schema
from raycl.results.files import Files
from raycl.results.reading import matrices, read_cells, read_inside, read_online, read_trials, stored_matrix
from raycl.results.store import ResultsFolder
from raycl.spec.trial import TrialSpec

Record = Callable[..., TrialSpec]
READ = {"trials": read_trials, "cells": read_cells, "inside": read_inside, "online": read_online}


def inside_rows() -> list[TaskRow]:
    """Rows of a trial that measured inside its tasks."""
    points = Points(np.array([0, 5]), np.array([0]), np.array([[3], [9]]), np.array([10]))
    return [TaskRow(**{**vars(row), "points": points, "online": Online(row.task + 2, 9)}) for row in rows()]


@pytest.fixture
def made(results: ResultsFolder, record: Record) -> ResultsFolder:
    """Methods whose options are of other names and types, one that measured inside tasks, one that failed."""
    record(spec("ewc", options={"penalty": 2, "replay_share": "auto"}), rows())
    record(spec("replay", options={"replay_share": 0.5, "balanced": True}), rows(5))
    record(spec("si", options={"penalty": 0.5}), inside_rows())
    record(spec("gem", options={"memory_strength": 3}), [], status="failed")
    return results


def all_read(results: ResultsFolder) -> dict[str, list[dict[str, Any]]]:
    return {kind: read(results).to_pylist() for kind, read in READ.items()}


def files_of(results: ResultsFolder) -> list[str]:
    """Of the data set, and parts that are not taken in."""
    return sorted({**results.files.sizes("data"), **results.files.sizes("parts")}.keys() - {"README.md"})


ALL = [f"{kind}/all.parquet" for kind in ("cells", "inside", "online", "trials")]


def test_it_is_one_file_a_kind_and_says_the_same(made: ResultsFolder) -> None:
    before, known = all_read(made), matrices(made)
    assert len(files_of(made)) == 4 + 4 + 2
    made.collect()
    assert files_of(made) == ALL
    assert all_read(made) == before
    found = matrices(made)
    assert list(found) == list(known)
    for name in known:
        np.testing.assert_array_equal(found[name].accuracy, known[name].accuracy)
        np.testing.assert_array_equal(stored_matrix(made, name).accuracy, known[name].accuracy)
    assert made.repair() == []
    times = {path: path.stat().st_mtime_ns for path in Path(made.uri).rglob("*.parquet")}
    made.collect()
    assert {path: path.stat().st_mtime_ns for path in Path(made.uri).rglob("*.parquet")} == times, "nothing is new"


@pytest.mark.parametrize("again", [False, True], ids=["for the first time", "once more"])
def test_each_row_is_read_once_at_any_moment(
    made: ResultsFolder, record: Record, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    if again:
        made.collect()
        record(spec("lwf", options={"temperature": 2.0}), rows(1))
    before, seen = all_read(made), []
    for name in ("write", "delete"):
        real = getattr(Files, name)

        def watched(self: Files, *given: Any, real: Any = real) -> None:
            seen.append(all_read(made))
            real(self, *given)
            seen.append(all_read(made))

        monkeypatch.setattr(Files, name, watched)
    made.collect()
    assert len(seen) > 20 - 8 * again
    assert all(one == before for one in seen)


def test_a_reader_that_looked_before_and_reads_afterwards_misses_nothing(
    made: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look for parts and their reading, the driver puts them together."""
    for kind, read in READ.items():
        before = read(made).to_pylist()
        look, looks = collected._own, []

        def late(files: Files, look: Any = look, looks: list[int] = looks) -> set[str]:
            found: set[str] = look(files)
            if not looks:
                looks.append(1)
                made.collect()
            return found

        with monkeypatch.context() as patch:
            patch.setattr(collected, "_own", late)
            assert read(made).to_pylist() == before, kind
        assert files_of(made) == ALL
        for name in made.ended():  # as they were
            made.trial(made._spec(name)).rewrite_parts()


def dying(real: Callable[..., None], left: list[int]) -> Callable[..., None]:
    """A method that fails from the time on when no steps are left."""

    def step(self: Files, *given: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StoreError("the power went away")
        real(self, *given)

    return step


def test_a_driver_may_die_at_any_point(made: ResultsFolder, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    made.collect()
    record(spec("lwf", options={"temperature": 2.0}), rows(1))
    before = all_read(made)
    for steps in range(100):
        left = [steps]
        with monkeypatch.context() as patch:
            for name in ("write", "delete"):
                patch.setattr(Files, name, dying(getattr(Files, name), left))
            try:
                made.collect()
                break
            except StoreError:
                pass
        assert all_read(made) == before
        made.repair()
        assert all_read(made) == before
    assert 5 < steps < 99
    assert files_of(made) == ALL
    assert all_read(made) == before


def test_a_trial_that_ends_anew_counts_and_not_what_it_was(made: ResultsFolder, record: Record) -> None:
    made.collect()
    again = spec("si", options={"penalty": 0.5})
    store = made.trial(again)
    store.reopen()
    assert again.hash not in read_trials(made)["trial"].to_pylist()
    assert read_inside(made).num_rows == 0
    store.restart()
    record(again, rows(20))
    for _ in range(2):
        (trial,) = (one for one in read_trials(made).to_pylist() if one["alias"] == "si")
        assert trial["average_accuracy"] == pytest.approx(0.8)
        assert read_trials(made).num_rows == 4
        assert read_inside(made).num_rows == read_online(made).num_rows == 0, "it measured nothing inside this time"
        made.collect()
    assert files_of(made) == ["cells/all.parquet", "trials/all.parquet"]


@pytest.mark.parametrize("kind", ["trials", "cells"])
def test_a_damaged_file_is_named_and_written_again_from_the_tasks(made: ResultsFolder, kind: str) -> None:
    before = all_read(made)
    made.collect()
    path = Path(made.uri, "data", kind, "all.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TornFile, match=r"all.parquet: not a complete Parquet result .*raycl resume"):
        READ[kind](made)
    assert sorted(made.repair()) == sorted(made.ended())
    assert all_read(made) == before
    made.collect()
    assert files_of(made) == ALL
    assert made.repair() == []


def test_a_missing_part_is_not_taken_from_before(made: ResultsFolder) -> None:
    """A trial with a part of its own has all of them: rows of an earlier end stand in the file."""
    made.collect()
    name = spec("si", options={"penalty": 0.5})
    made.trial(name).rewrite_parts()
    Path(made.uri, "parts", "cells", f"{name.hash}.parquet").unlink()
    with pytest.raises(TornFile, match=f"{name.hash}.parquet: missing; `raycl resume`"):
        read_cells(made)
    assert made.repair() == [name.hash]
    assert read_cells(made).num_rows == 3 * 12


def test_rows_for_another_verdict_are_written_again(made: ResultsFolder) -> None:
    made.collect()
    name = made.ended()[0]
    path = Path(made.uri, "trials", name, "verdict.json")
    path.write_text(path.read_text() + " ")
    assert made.repair() == [name]


def test_the_matrix_of_one_trial_is_read_without_the_others(results: ResultsFolder, record: Record) -> None:
    for seed in range(40):
        record(spec(seed=seed), rows())
    results.collect()
    file = schema.pq.ParquetFile(Path(results.uri, "data", "cells", "all.parquet"))
    ended = results.ended()
    assert file.num_row_groups == 3
    assert [schema._groups(file, [ended[at]]) for at in (0, 15, 16, 39)] == [[0], [0], [1], [2]]
    assert read_cells(results)["trial"].to_pylist() == [name for name in ended for _ in range(12)]


def test_an_object_store_works_alike(made: ResultsFolder) -> None:
    before = all_read(made)
    root = Path(made.uri)
    remote = pafs.SubTreeFileSystem(str(root.parent), pafs.LocalFileSystem())
    head = {"name": "tiny", "hash": "h", "sweep": "{}"}
    results = ResultsFolder(Files("s3://bucket/results", remote, root.name), head)
    results.collect()
    assert files_of(results) == ALL
    assert all_read(results) == all_read(made) == before
    assert results.repair() == []


# -- folders of before, and sweeps that go on ------------------------------------------------------------------


def as_before(results: ResultsFolder, *trials: str) -> None:
    """Lay the parts of trials where earlier versions of raycl left them, and name them so in their verdicts."""
    root = Path(results.uri)
    for path in sorted(root.glob("parts/*/*.parquet")):
        if path.stem in trials:
            target = root / "data" / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    for name in trials:
        verdict = root / "trials" / name / "verdict.json"
        verdict.write_text(verdict.read_text().replace('"parts/', '"data/'))


def test_a_folder_of_before_is_read_and_brought_up(made: ResultsFolder, record: Record) -> None:
    before = all_read(made)
    as_before(made, *made.ended())
    assert made.files.sizes("parts") == {}
    assert len(files_of(made)) == 10
    assert all_read(made) == before
    assert made.repair() == []
    record(spec("lwf", options={"temperature": 2.0}), rows(1))
    before = all_read(made)
    assert len(before["trials"]) == 5
    made.collect()
    assert files_of(made) == ALL
    assert all_read(made) == before


def test_a_trial_of_before_that_goes_on_leaves_no_row_of_then(made: ResultsFolder, record: Record) -> None:
    again = spec("si", options={"penalty": 0.5})
    as_before(made, again.hash)
    made.trial(again).reopen()
    assert again.hash not in read_trials(made)["trial"].to_pylist()
    assert not [name for name in files_of(made) if again.hash in name]


def test_a_trial_that_ends_anew_meanwhile_keeps_its_parts(
    made: ResultsFolder, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep goes on while its data set is written: what was read before must not take the place of what came."""
    again = spec("si", options={"penalty": 0.5})
    real = Files.write

    def slow(self: Files, relative: str, data: bytes) -> None:
        real(self, relative, data)
        if relative == "data/trials/all.parquet":
            monkeypatch.setattr(Files, "write", real)
            made.trial(again).restart()
            record(again, rows(20))

    monkeypatch.setattr(Files, "write", slow)
    made.collect()
    left = [name for name in files_of(made) if name not in ALL]
    assert left == [f"{kind}/{again.hash}.parquet" for kind in ("cells", "trials")]
    for _ in range(2):
        (trial,) = (one for one in read_trials(made).to_pylist() if one["alias"] == "si")
        assert trial["average_accuracy"] == pytest.approx(0.8)
        made.collect()
    assert files_of(made) == ["cells/all.parquet", "trials/all.parquet"]


def test_a_trial_that_has_not_ended_keeps_its_parts(made: ResultsFolder) -> None:
    going_on = spec("si", options={"penalty": 0.5})
    Path(made.uri, "trials", going_on.hash, "verdict.json").unlink()
    made.collect()
    assert f"trials/{going_on.hash}.parquet" in files_of(made)
    assert going_on.hash not in read_trials(made)["trial"].to_pylist()
