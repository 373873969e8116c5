"""The store: nothing torn is believed, nothing whole is lost, attempts do not mix."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
from results.made_results import PROVENANCE, row, rows, spec

from raycl.errors import StoreError, TornFile
from raycl.matrix import TaskRow, Verdict
from raycl.results import schema
from raycl.results.files import Files
from raycl.results.reading import read_cells, read_trials
from raycl.results.store import ResultsFolder
from raycl.results.trial_store import TrialStore


class Crash(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def _learn(store: TrialStore, attempt: int, task: int, mark: int = 0) -> None:
    store.write_task(
        attempt, task, [row(task, [mark, 50, 50])], {"a.safetensors": b"%d %d" % (task, attempt), "b.json": b"{}"}
    )


def _marks(store: TrialStore) -> list[tuple[int, int]]:
    return [(one.task, int(one.correct[0])) for one in store.rows()]


def _crash_after(monkeypatch: pytest.MonkeyPatch, writes: int, torn: bool) -> None:
    """Let so many files through; the next is cut in half under its final name, or not there at all."""
    done = 0
    write = Files.write

    def failing(self: Files, relative: str, data: bytes) -> None:
        nonlocal done
        if done == writes:
            if torn:
                write(self, relative, data[: len(data) // 2])
            raise Crash
        done += 1
        write(self, relative, data)

    monkeypatch.setattr(Files, "write", failing)


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("writes", range(4))
def test_a_crash_at_any_file_of_a_task_leaves_the_task_before(
    results: ResultsFolder, monkeypatch: pytest.MonkeyPatch, writes: int, torn: bool
) -> None:
    store = results.trial(spec())
    attempt = store.begin()
    _learn(store, attempt, 0, mark=1)
    with monkeypatch.context() as patch:
        _crash_after(patch, writes, torn)
        with pytest.raises(Crash):
            _learn(store, attempt, 1, mark=2)
    again = results.trial(spec())
    assert again.begin() == 1
    manifest = again.latest()
    assert manifest is not None
    assert manifest.key == (0, 0)
    assert again.read_checkpoint(manifest) == {"a.safetensors": b"0 0", "b.json": b"{}"}
    assert _marks(again) == [(0, 1)]
    _learn(again, 1, 1, mark=3)
    assert _marks(again) == [(0, 1), (1, 3)]


@pytest.mark.parametrize("writes", range(3))
def test_a_crash_while_the_end_is_written_leaves_a_trial_that_ends_again(
    results: ResultsFolder, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    store = results.trial(spec())
    store.begin()
    _learn(store, 0, 0)
    with monkeypatch.context() as patch:
        _crash_after(patch, writes, torn=False)
        with pytest.raises(Crash):
            store.finish(Verdict("finished", task=0), PROVENANCE)
    again = results.trial(spec())
    assert again.verdict() is None
    assert again.latest() is not None
    assert read_trials(results).num_rows == 0
    again.finish(Verdict("finished", task=0), PROVENANCE)
    assert read_trials(results).num_rows == 1


def test_rows_follow_the_line_of_work_that_got_furthest_and_never_mix_attempts(results: ResultsFolder) -> None:
    first = results.trial(spec())
    first.begin()
    for task in range(3):
        _learn(first, 0, task, mark=10 + task)
    second = results.trial(spec())
    attempt = second.begin()
    manifest = first.latest()
    assert manifest is not None
    second.read_checkpoint(next(m for m in second.history().manifests.values() if m.key == (1, 0)))
    _learn(second, attempt, 2, mark=22)
    assert _marks(second) == [(0, 10), (1, 11), (2, 22)], "task 2 of the attempt that goes on"
    _learn(first, 0, 3, mark=13)
    assert _marks(second) == [(0, 10), (1, 11), (2, 12), (3, 13)], "one line, and it is the first attempt's"
    _learn(second, attempt, 3, mark=23)
    assert _marks(second) == [(0, 10), (1, 11), (2, 22), (3, 23)]


def test_an_attempt_from_the_start_owes_nothing_to_earlier_ones(results: ResultsFolder) -> None:
    first, second = results.trial(spec()), results.trial(spec())
    first.begin()
    for task in range(2):
        _learn(first, 0, task, mark=1)
    _learn(second, second.begin(), 0, mark=2)
    assert _marks(second) == [(0, 1), (1, 1)]
    _learn(second, 1, 1, mark=2)
    assert _marks(second) == [(0, 2), (1, 2)]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    results: ResultsFolder, caplog: pytest.LogCaptureFixture
) -> None:
    store = results.trial(spec())
    store.begin()
    for task in range(3):
        _learn(store, 0, task, mark=task)
    state = Path(results.uri) / f"trials/{spec().hash}/ckpt/0002-0000/a.safetensors"
    state.write_bytes(b"2 1")  # the same size: only the digest tells
    with caplog.at_level(logging.WARNING):
        restored = results.trial(spec()).restore()
    assert restored is not None
    assert restored[0].key == (1, 0)
    assert restored[1]["a.safetensors"] == b"1 0"
    assert [one.task for one in store.rows(restored[0])] == [0, 1]
    assert "0002-0000" in caplog.text


def test_two_checkpoints_stay_and_a_finished_trial_keeps_none(results: ResultsFolder) -> None:
    store = results.trial(spec())
    store.begin()
    for task in range(3):
        _learn(store, 0, task)
    assert results.files.children(f"trials/{spec().hash}/ckpt") == ["0001-0000", "0002-0000"]
    store.finish(Verdict("pruned", "below", 0.1, 2), PROVENANCE)
    assert results.files.children(f"trials/{spec().hash}/ckpt") == ["0001-0000", "0002-0000"]
    store.reopen()
    assert store.verdict() is None
    assert read_trials(results).num_rows == 0
    store.finish(Verdict("finished", "", 0.1, 2), PROVENANCE)
    assert results.files.children(f"trials/{spec().hash}/ckpt") == []
    assert store.latest() is None
    assert len(store.rows()) == 3


def test_a_finished_trial_with_lost_rows_is_refused(results: ResultsFolder) -> None:
    store = results.trial(spec())
    store.begin()
    for task in range(3):
        _learn(store, 0, task)
    (Path(results.uri) / f"trials/{spec().hash}/rows/0001-0000.parquet").write_bytes(b"PAR1")
    with pytest.raises(TornFile, match="tasks 1 to 2 are lost"):
        store.finish(Verdict("finished", task=2), PROVENANCE)


def test_what_is_stored_comes_back(results: ResultsFolder) -> None:
    store = results.trial(spec())
    store.begin()
    store.write_task(0, 0, [row(-1, [1, 2, 3]), row(0, [4, float("nan"), 6])], {}, {"note": "x"})
    manifest = store.latest()
    assert manifest is not None
    assert manifest.extra == {"note": "x"}
    before, after = store.rows()
    assert (before.task, after.task) == (-1, 0)
    assert after.correct.dtype == np.int64
    assert after.total.tolist() == [100, 0, 100]
    assert after.cost == row(0, []).cost
    assert [one.hash for one in results.specs()] == [spec().hash]
    assert next(iter(results.specs())) == spec()


def test_a_trial_that_failed_at_once_has_a_row_and_no_cells(results: ResultsFolder) -> None:
    store = results.trial(spec())
    store.begin()
    store.finish(Verdict("failed", "loss is not finite"), PROVENANCE)
    (trial,) = read_trials(results).to_pylist()
    assert (trial["status"], trial["reason"], trial["tasks_done"]) == ("failed", "loss is not finite", 0)
    assert trial["average_accuracy"] is None
    assert read_cells(results).num_rows == 0


def test_seconds_add_up_over_attempts_and_updates_do_not(results: ResultsFolder) -> None:
    first, second = results.trial(spec()), results.trial(spec())
    first.begin()
    _learn(first, 0, 0)
    _learn(first, 0, 1)
    _learn(second, second.begin(), 0)
    _learn(second, 1, 1)
    second.finish(Verdict("finished", task=1), PROVENANCE)
    (trial,) = read_trials(results).to_pylist()
    assert (trial["wall_seconds"], trial["cpu_seconds"]) == (4.0, 2.0)
    assert (trial["updates"], trial["examples"], trial["parameters"]) == (14, 140, 1000)


def test_a_truncated_part_is_named_and_repaired(results: ResultsFolder, record: Any) -> None:
    record(spec(), rows())
    whole = read_cells(results)
    for kind in ("cells", "trials"):
        part = Path(results.uri) / f"parts/{kind}/{spec().hash}.parquet"
        part.write_bytes(part.read_bytes()[:-20])
        with pytest.raises(TornFile, match=rf"{part}.*raycl resume"):
            (read_cells if kind == "cells" else read_trials)(results)
    assert results.repair() == [spec().hash]
    assert read_cells(results).equals(whole)
    (Path(results.uri) / f"parts/trials/{spec().hash}.parquet").unlink()
    with pytest.raises(TornFile, match="missing"):
        read_trials(results)
    ResultsFolder.create(results.uri, results.sweep_json, results.sweep_hash).repair()  # as `raycl resume` does
    assert read_trials(results)["average_accuracy"].to_pylist() == [pytest.approx(0.6)]
    assert results.repair() == []


def test_the_folder_of_another_sweep_is_refused_and_its_own_continues(tmp_path: Path) -> None:
    ResultsFolder.create(tmp_path, '{"name": "a"}', "h1")
    assert ResultsFolder.create(tmp_path, '{"name": "a"}', "h1").sweep_json == '{"name": "a"}'
    assert ResultsFolder.open(tmp_path).sweep_json == '{"name": "a"}'
    with pytest.raises(StoreError, match=r"'a' \(h1\), not to sweep 'b' \(h2\)"):
        ResultsFolder.create(tmp_path, '{"name": "b"}', "h2")
    newer = '{"name": "a", "pruner": {}}'
    ResultsFolder.create(tmp_path, newer, "h1")
    assert ResultsFolder.open(tmp_path).sweep_json == newer


def test_the_sweep_file_is_kept_as_it_is_and_a_folder_of_before_is_read_and_brought_up(tmp_path: Path) -> None:
    told = {"name": "a", "hash": "h1", "file": "a.yaml", "text": "name: a  # é\n"}
    ResultsFolder.create(tmp_path, json.dumps(told), "h1")
    assert (tmp_path / "sweep.yaml").read_text(encoding="utf-8") == told["text"]
    assert "name: a" not in (tmp_path / "sweep.json").read_text()
    assert json.loads(ResultsFolder.open(tmp_path).sweep_json) == told
    (tmp_path / "sweep.yaml").unlink()
    with pytest.raises(TornFile, match=r"sweep.yaml: missing; give `raycl run` the sweep file"):
        ResultsFolder.open(tmp_path)
    head = {"format": 1, "name": "a", "hash": "h1", "sweep": json.dumps(told)}
    (tmp_path / "sweep.json").write_text(json.dumps(head))
    assert json.loads(ResultsFolder.open(tmp_path).sweep_json) == told
    ResultsFolder.create(tmp_path, json.dumps(told), "h1")
    assert (tmp_path / "sweep.yaml").read_text(encoding="utf-8") == told["text"]
    assert json.loads(ResultsFolder.open(tmp_path).sweep_json) == told
    (tmp_path / "sweep.json").write_text(json.dumps({**head, "format": 3}))
    with pytest.raises(StoreError, match="format 3, this raycl reads 1 and 2"):
        ResultsFolder.open(tmp_path)


def test_paths_are_absolute_and_uris_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ResultsFolder.create("out/x", "{}", "h").uri == str(tmp_path / "out/x")
    assert ResultsFolder.open(f"file://{tmp_path}/out/x").uri == str(tmp_path / "out/x")
    with pytest.raises(StoreError, match="no file system"):
        ResultsFolder.open("nowhere://bucket/x")
    with pytest.raises(StoreError, match="no results folder"):
        ResultsFolder.open(tmp_path)


def test_no_write_permission_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be"):
        ResultsFolder.create(tmp_path / "file", "{}", "h")

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(StoreError, match="no permission"):
        ResultsFolder.create(tmp_path / "new", "{}", "h")


def test_writers_of_one_decision_agree_on_the_first(results: ResultsFolder) -> None:
    barrier = threading.Barrier(8)
    seen: list[dict[str, Any]] = []

    def write(value: int) -> None:
        barrier.wait()
        seen.append(results.write_json_once("suggestions/ewc/0000.json", {"value": value, "fill": "x" * 5000}))

    threads = [threading.Thread(target=write, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one == seen[0] for one in seen)
    assert results.read_json("suggestions/ewc/0000.json") == seen[0]
    assert results.files.children("suggestions/ewc") == ["0000.json"], "nothing is left aside"
    assert results.read_json("suggestions/none.json") is None


def test_attempts_of_two_racing_workers_differ(results: ResultsFolder) -> None:
    numbers: list[int] = []
    threads = [threading.Thread(target=lambda: numbers.append(results.trial(spec()).begin())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(8))


def test_an_object_store_works_alike(tmp_path: Path) -> None:
    """A file system that is not pyarrow's local one takes the path of object stores: puts without renames."""
    remote = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    files = Files("s3://bucket/sweep", remote, "sweep")
    assert files.local is None
    results = ResultsFolder(files, {"name": "tiny", "hash": "h", "sweep": "{}"})
    store = results.trial(spec())
    assert store.begin() == 0
    for task in range(3):
        _learn(store, 0, task)
    assert results.files.children(f"trials/{spec().hash}/ckpt") == ["0001-0000", "0002-0000"]
    restored = results.trial(spec()).restore()
    assert restored is not None
    assert restored[1]["b.json"] == b"{}"
    assert results.write_json_once("a/b.json", {"x": 1}) == {"x": 1}
    assert results.write_json_once("a/b.json", {"x": 2}) == {"x": 1}
    store.finish(Verdict("finished", task=2), PROVENANCE)
    assert read_trials(results)["status"].to_pylist() == ["finished"]
    assert results.repair() == []
    with results.lease():
        assert results.read_json("lease.json") is not None
    assert results.read_json("lease.json") is None


def test_a_thousand_tasks_are_small_and_quick() -> None:
    tasks = 1000
    counts = np.random.default_rng(0).integers(400, 500, (tasks, tasks))
    total = np.full(tasks, 500)
    many = [TaskRow(task, counts[task], total) for task in range(tasks)]
    start = time.process_time()
    data = schema.to_parquet(schema.cells_table("0123456789abcdef", many))
    seconds = time.process_time() - start
    assert seconds < 1.0
    assert len(data) < 2_000_000
    assert schema.from_parquet(data, "x", schema.CELLS).num_rows == tasks * tasks
    row_bytes = schema.to_parquet(schema.rows_table(many[:1]))
    assert len(row_bytes) < 5_000
    assert np.array_equal(schema.rows_of(schema.from_parquet(row_bytes, "x"))[0].correct, counts[0])


def test_parts_say_their_version_and_everything_of_the_trial(results: ResultsFolder, record: Any) -> None:
    record(spec(uses_memory=True), rows(), value=0.6, note="kept")
    table = read_trials(results)
    part = results.files.read(f"parts/trials/{spec(uses_memory=True).hash}.parquet")
    assert schema.from_parquet(part or b"", "x").schema.metadata[b"raycl.schema_version"] == b"1"
    (trial,) = table.to_pylist()
    assert trial["average_accuracy"] == pytest.approx(0.6)
    assert trial["forward_transfer"] == pytest.approx(0.1)
    assert (trial["sweep"], trial["alias"], trial["seed"], trial["scored_on"]) == ("tiny", "ewc", 10, "test")
    assert (trial["selected_by"], trial["split_hash"], trial["value"]) == ("validation", "feed", 0.6)
    assert (trial["hp.penalty"], trial["hp.layers"]) == (10.0, "[1, 2]")
    assert (trial["hp.memory.capacity"], trial["hp.training.learning_rate"]) == (500, 0.001)
    assert json.loads(trial["provenance"]) == {"note": "kept"}
    assert json.loads(trial["spec"])["options"]["penalty"] == 10.0


def test_hyperparameters_of_different_methods_share_a_table(results: ResultsFolder, record: Any) -> None:
    record(spec("a", options={"penalty": 1, "mode": "x", "limit": 3}), rows())
    record(spec("b", options={"penalty": 2.5, "mode": True, "limit": "auto"}), rows())
    record(spec("c", options={"shards": 2}), rows())
    by_alias = {trial["alias"]: trial for trial in read_trials(results).to_pylist()}
    assert [by_alias[alias]["hp.penalty"] for alias in "abc"] == [1.0, 2.5, None]
    assert [by_alias[alias]["hp.mode"] for alias in "abc"] == ["x", "true", None]
    assert [by_alias[alias]["hp.limit"] for alias in "abc"] == ["3", "auto", None]
    assert by_alias["c"]["hp.shards"] == 2
