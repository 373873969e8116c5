"""A finished trial lies in few files and says the same; one that lacks cells has not ended for who asks for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from results.made_results import PROVENANCE, row, spec

from raycl.errors import TornFile
from raycl.matrix import Verdict
from raycl.results.files import Files
from raycl.results.store import ResultsFolder
from raycl.results.trial_store import TrialStore
from raycl.spec.evaluation import EvaluationConfig


def _marks(store: TrialStore) -> list[tuple[int, int]]:
    return [(one.task, int(one.correct[0])) for one in store.rows()]


def _folder(store: TrialStore, results: ResultsFolder) -> Path:
    return Path(results.uri, "trials", store.spec.hash)


def _two_attempts(results: ResultsFolder, tasks: int) -> TrialStore:
    """The first attempt is lost after half of the tasks; the second goes on from there."""
    for number, upto in enumerate((tasks // 2, tasks)):
        store = results.trial(spec())
        attempt = store.begin()
        found = store.restore()
        assert attempt == number
        for task in range(found[0].task + 1 if found else 0, upto):
            counts = row(task, [float(10 * number)] * tasks)
            store.write_task(attempt, task, [counts], {"a.safetensors": b"x"})
    return store


@pytest.mark.parametrize("tasks", [4, 30])
def test_a_finished_trial_lies_in_few_files_and_says_the_same(results: ResultsFolder, tasks: int) -> None:
    store = _two_attempts(results, tasks)
    before, marks = store.history(), _marks(store)
    seconds, times = before.seconds(), before.times()
    store.finish(Verdict("finished", task=tasks - 1), {**PROVENANCE, "num_tasks": tasks})
    files = sorted(str(path.relative_to(_folder(store, results))) for path in _folder(store, results).rglob("*.*"))
    assert files == ["attempts/0000.json", "attempts/0001.json", "history.parquet", "spec.json", "verdict.json"]
    assert _marks(store) == marks
    assert (store.history().seconds(), store.history().times()) == (seconds, times)
    assert [m.key for m in store.history().manifests.values()] == [m.key for m in before.manifests.values()]


def test_readers_see_each_row_once_while_a_trial_is_put_together(
    results: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _two_attempts(results, 4)
    marks, seconds = _marks(store), store.history().seconds()
    seen = []
    delete = Files.delete_folder

    def watched(self: Files, relative: str) -> None:
        seen.append((_marks(store), store.history().seconds()))
        delete(self, relative)
        seen.append((_marks(store), store.history().seconds()))

    monkeypatch.setattr(Files, "delete_folder", watched)
    store.finish(Verdict("finished", task=3), {**PROVENANCE, "num_tasks": 4})
    assert len(seen) == 6
    assert all(each == (marks, seconds) for each in seen)


def test_a_trial_that_may_go_on_stays_as_it_is(results: ResultsFolder) -> None:
    store = _two_attempts(results, 4)
    store.finish(Verdict("pruned", "below", 0.1, 3), {**PROVENANCE, "num_tasks": 4})
    assert store.restore() is not None
    assert not (_folder(store, results) / "history.parquet").exists()


def test_the_last_state_of_a_final_trial_is_found_after_it_was_put_together(results: ResultsFolder) -> None:
    kept = spec().model_copy(update={"keep_checkpoint": True})
    store = results.trial(kept)
    attempt = store.begin()
    for task in range(3):
        store.write_task(attempt, task, [row(task, [0, 50, 50])], {"a.safetensors": b"%d 0" % task})
    store.finish(Verdict("finished", task=2), PROVENANCE)
    found = results.trial(kept).restore()
    assert found is not None
    assert (found[0].task, found[1]["a.safetensors"]) == (2, b"2 0")


def test_a_damaged_history_is_named_and_never_believed(
    results: ResultsFolder, caplog: pytest.LogCaptureFixture
) -> None:
    store = _two_attempts(results, 4)
    store.finish(Verdict("finished", task=3), {**PROVENANCE, "num_tasks": 4})
    path = _folder(store, results) / "history.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 0xFF  # within the first pages, which a checksum seals
    path.write_bytes(data)
    assert store.rows() == []
    assert "history.parquet" in caplog.text
    with pytest.raises(TornFile, match="delete this trial's folder and run the sweep again"):
        store.rewrite_parts()
    store.restart()
    assert not path.exists()


def test_a_verdict_of_before_says_that_every_cell_is_there(results: ResultsFolder) -> None:
    """In a stream of so many tasks a trial measures a sample today, unless all are asked for."""
    store = results.trial(spec())
    store.write_task(store.begin(), 0, [row(0, [1.0] * 300)], {})
    store.finish(Verdict("finished", task=0), {**PROVENANCE, "num_tasks": 300})
    whole = EvaluationConfig.model_validate_json('{"tasks": "all"}')
    asking = results.trial(spec().model_copy(update={"evaluation": whole}))
    assert store.verdict() is not None
    assert asking.verdict() is None
    path = _folder(store, results) / "verdict.json"
    record = json.loads(path.read_text())
    del record["evaluation"]
    path.write_text(json.dumps(record))
    assert asking.verdict() is not None


def test_the_end_of_a_trial_reads_each_of_its_rows_once(
    results: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _two_attempts(results, 6)
    asked: list[str] = []
    read = Files.read
    monkeypatch.setattr(Files, "read", lambda self, relative: (asked.append(relative), read(self, relative))[1])
    store.finish(Verdict("finished", task=5), {**PROVENANCE, "num_tasks": 6})
    rows = [name for name in asked if "/rows/" in name]
    assert sorted(rows) == sorted(set(rows))
    assert len(rows) == 6
