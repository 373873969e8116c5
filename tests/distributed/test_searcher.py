"""How trials are handed to Tune and watched while they run. No cluster."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.trainable.metadata import _TrainingRunMetadata
from sweeping import SWEEP, TASKS, ledger, parsed, play, pretend

from raycl.distributed import searcher
from raycl.errors import SpecError
from raycl.matrix import TaskRow
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec
from raycl.sweep.dispatch import LOST_AFTER, MOST_STALLS, Dispatcher, NothingLeft, configuration
from raycl.sweep.job import Job
from raycl.sweep.ledger import Ledger
from raycl.sweep.search import SearchPlan


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def dispatcher(sweep: SweepSpec, book: Ledger, slots: int = 1, **options) -> Dispatcher:
    plans = [SearchPlan(sweep, entry, book) for entry in sweep.entries]
    return Dispatcher(plans, book, slots, **options)


def learn_one_task(book: Ledger, job: Job) -> None:
    """Leave one more row, and no verdict."""
    store = book.results.trial(job.spec)
    attempt = store.begin()
    store.restore()
    task = book.tasks_learned(job.spec)
    store.write_task(attempt, task, [TaskRow(task, np.ones(TASKS, int), np.full(TASKS, 2))], {"state": b"x"}, {})


def test_strategies_take_turns(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    book = ledger(sweep, tmp_path)
    jobs = play(dispatcher(sweep, book), book.results)
    assert [job.spec.strategy for job in jobs[:4]] == ["naive", "replay", "naive", "replay"]


def test_no_more_run_than_there_are_slots(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    book = ledger(sweep, tmp_path)
    dispatch = dispatcher(sweep, book, slots=3)
    found = [dispatch.suggest(f"t{number}") for number in range(5)]
    assert [isinstance(job, Job) for job in found] == [True, True, True, False, False]
    assert len({job.spec.hash for job in dispatch.running.values()}) == 3


def test_two_names_of_one_method_share_trials(tmp_path: Path) -> None:
    text = SWEEP.replace("naive: {training", "again: {strategy: replay, memory.capacity: {choice: [20, 50, 100]}}\n  #")
    sweep = parsed(text)
    book = ledger(sweep, tmp_path)
    dispatch = dispatcher(sweep, book, slots=4)
    jobs = play(dispatch, book.results, max)
    assert len(jobs) == len({job.spec.hash for job in jobs}) <= 3
    assert [len(plan.outcomes) for plan in dispatch.plans] == [3, 3]  # type: ignore[attr-defined]


def test_what_has_ended_is_not_launched_again(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    first = ledger(sweep, tmp_path)
    assert play(dispatcher(sweep, first, 2), first.results)
    second = ledger(sweep, tmp_path)
    assert dispatcher(sweep, second).suggest("t") is NothingLeft


def test_a_lost_trial_runs_again_while_it_leaves_rows(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    book, clock = ledger(sweep, tmp_path), Clock()
    dispatch = dispatcher(sweep, book, clock=clock)
    job = dispatch.suggest("t0")
    assert isinstance(job, Job)
    for number in range(TASKS - 1):  # more often than patience lasts without rows
        learn_one_task(book, job)
        dispatch.completed(f"t{number}")
        assert not dispatch.halted
        again = dispatch.suggest(f"t{number + 1}")
        while isinstance(again, Job) and again.spec.hash != job.spec.hash:
            pretend(book.results, again)
            dispatch.completed(f"t{number + 1}")
            again = dispatch.suggest(f"t{number + 1}")
        assert again == job


def test_a_trial_that_leaves_no_row_stops_the_sweep_with_its_reason(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    book, clock = ledger(sweep, tmp_path), Clock()
    dispatch = dispatcher(sweep, book, slots=9, clock=clock)
    job = dispatch.suggest("t0")
    assert isinstance(job, Job)
    launched = {"t0": clock.now}
    for number in range(1, 50):
        if dispatch.halted:
            break
        identity = next(i for i, running in dispatch.running.items() if running.spec.hash == job.spec.hash)
        dispatch.completed(identity)
        dispatch.explain(identity, "OSError: no route to host")
        while not dispatch.halted and not any(r.spec.hash == job.spec.hash for r in dispatch.running.values()):
            clock.now += 0.25
            dispatch.suggest(f"n{number}-{clock.now}")
        launched[f"n{number}"] = clock.now
    assert len(launched) == MOST_STALLS + 1
    waits = np.diff(list(launched.values()))[:-1]
    assert all(later > earlier for earlier, later in pairwise(waits))
    assert job.spec.hash in dispatch.why_halted()
    assert "no route to host" in dispatch.why_halted()
    assert dispatch.suggest("more") is NothingLeft


def test_a_trial_that_tune_forgot_is_handed_out_again(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    book, clock = ledger(sweep, tmp_path), Clock()
    dispatch = dispatcher(sweep, book, clock=clock)
    job = dispatch.suggest("t0")
    dispatch.statuses = lambda: {"t0": "RUNNING"}
    assert [dispatch.suggest("t1") for _ in range(2 * LOST_AFTER)] == [None] * 2 * LOST_AFTER
    dispatch.statuses = lambda: {"t0": "TERMINATED"}
    found = [dispatch.suggest(f"n{number}") for number in range(LOST_AFTER)]
    assert found[:-1] == [None] * (LOST_AFTER - 1)
    assert isinstance(found[-1], Job)
    assert "t0" not in dispatch.running
    clock.now += 60
    dispatch.slots = 9
    dispatch.statuses = None
    jobs = [dispatch.suggest(f"m{number}") for number in range(6)]
    assert job in jobs


def test_what_tune_pickles_is_plain(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    book = ledger(sweep, tmp_path)
    drive = searcher.Drive(dispatcher(sweep, book), {"results": str(tmp_path)}, lambda tasks: None)
    with searcher.registered("key", drive):
        parts = [searcher.SweepSearcher("key"), searcher.SweepCallback("key"), searcher.SweepStopper("key")]
        suggesting, callback, stopper = pickle.loads(pickle.dumps(parts))
        told = suggesting.suggest("t0")
        job = drive.dispatcher.running["t0"]
        assert told == configuration(job, {"results": str(tmp_path)})
        assert TrialSpec.loads(told["spec"]) == job.spec
        callback.on_trial_error(0, [], object.__new__(_Broken))  # never raises
        callback.on_trial_complete(0, [], object.__new__(_Broken))
        assert not stopper.stop_all()
        drive.dispatcher.halted = "enough"
        assert stopper.stop_all()


def test_what_tune_keeps_of_an_ended_trial_is_small() -> None:
    """Its statistics of every metric are 18 kilobytes a trial, to the end of the sweep."""
    data = _TrainingRunMetadata()
    for task in range(3):
        for name in ("task", "tasks", "metric", "pid", "time_total_s"):
            data.update_metric(name, float(task), task)
    data.last_result = {"task": 2}
    before = len(pickle.dumps(data.metric_n_steps)) + len(pickle.dumps(data.metric_analysis))
    searcher.SweepCallback("key").on_trial_complete(0, [], SimpleNamespace(run_metadata=data))
    after = len(pickle.dumps(data.metric_n_steps)) + len(pickle.dumps(data.metric_analysis))
    assert before > 20 * after
    assert data.last_result == {"task": 2}


class _Broken:
    trial_id = "t0"
    local_path = None
    run_metadata = None


def test_a_space_without_a_search_is_refused_by_the_file() -> None:
    with pytest.raises(SpecError):
        parsed(SWEEP[: SWEEP.index("search:")])
