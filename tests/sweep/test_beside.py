"""Mirrors, display and locks beside the driver's loop: none of them holds it up or ends it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import get_all_study_summaries
from sweeping import SWEEP, parsed, pretend

from raycl.results.decisions import suggestion_path
from raycl.results.store import ResultsFolder
from raycl.results.trackers import optuna as mirrors
from raycl.results.trackers.optuna import JOURNAL, LOCK, Lock, StudyMirror
from raycl.spec.sweep import SweepSpec
from raycl.sweep.beside import Beside
from raycl.sweep.job import Job
from raycl.sweep.ledger import Ledger, Record
from raycl.sweep.signals import Interrupted, Interruption, interruptible

pytestmark = pytest.mark.alone


@pytest.fixture
def sweep() -> SweepSpec:
    return parsed(SWEEP)


@pytest.fixture
def record(sweep: SweepSpec, tmp_path: Path) -> Record:
    """The trial of the first suggestion, which has ended."""
    results = ResultsFolder.create(tmp_path / "results", sweep.dumps(), sweep.hash)
    entry, point = sweep.entries[0], {"training.learning_rate": 1e-3}
    results.write_json_once(suggestion_path(entry, 0), {"point": point, "cutoffs": {}})
    spec = sweep.trial(entry, point, 0, "search")
    pretend(results, Job(spec, {}))
    found = Ledger(results).record(spec)
    assert found is not None
    return found


@pytest.fixture
def results(tmp_path: Path, record: Record) -> ResultsFolder:
    return ResultsFolder.open(tmp_path / "results")


def _trials(results: ResultsFolder) -> int:
    storage = JournalStorage(JournalFileBackend(str(results.files.local / JOURNAL)))  # type: ignore[operator]
    return sum(summary.n_trials for summary in get_all_study_summaries(storage))


# -- the thread beside the loop ------------------------------------------------------------------------------------


def test_what_is_offered_is_done_in_order_and_an_error_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def fail() -> None:
        raise ValueError("no terminal")

    with Beside("the display", 10, patience=10) as beside:
        for number in range(3):
            assert beside.offer(lambda number=number: done.append(number))  # type: ignore[misc]
        beside.offer(fail)
        beside.offer(lambda: done.append(3))
    assert done == [0, 1, 2, 3]
    assert caplog.messages == ["the display: no terminal"]


def test_what_blocks_for_ever_holds_up_neither_the_loop_nor_the_end(caplog: pytest.LogCaptureFixture) -> None:
    free = threading.Event()
    began = time.monotonic()
    with Beside("the display", 2, patience=0.2) as beside:
        beside.offer(free.wait)
        time.sleep(0.05)
        assert [beside.offer(lambda: None) for _ in range(4)] == [True, True, False, False]
    assert time.monotonic() - began < 5
    assert caplog.messages == [
        "the display does not answer; it was left behind",
        "the display was too slow: 2 changes were left out",
    ]
    free.set()


# -- Optuna's journal ----------------------------------------------------------------------------------------------


def test_a_lock_that_leads_nowhere_is_broken(
    sweep: SweepSpec, record: Record, results: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lock.__init__, "__defaults__", (0.3,))
    lock = Path(results.uri, LOCK)
    lock.symlink_to("/before/the/move/optuna-journal.log")
    StudyMirror(results, sweep).add(record)
    assert not lock.is_symlink()
    assert _trials(results) == 1
    lock.write_text("")  # and one that leads somewhere
    StudyMirror(results, sweep).add(record)
    assert _trials(results) == 1
    assert sorted(path.name for path in Path(results.uri).glob("*optuna*")) == [JOURNAL]


def test_the_check_finds_the_lock_that_waits_for_ever(
    sweep: SweepSpec, record: Record, results: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: Optuna's own lock. The loop goes on all the same, as it waits beside it."""
    monkeypatch.setattr(mirrors, "Lock", lambda path: None)
    Path(results.uri, LOCK).symlink_to("/nowhere")
    mirror = StudyMirror(results, sweep)
    began = time.monotonic()
    with Beside("the mirror for Optuna", 10, patience=1) as beside:
        beside.offer(lambda: mirror.add(record))
        assert time.monotonic() - began < 1
    assert Path(results.uri, LOCK).is_symlink()
    assert time.monotonic() - began < 30
    Path(results.uri, LOCK).unlink()  # lets the thread end


def test_a_lock_that_moves_is_waited_for(tmp_path: Path) -> None:
    """Many short holders, one after another: each is another file."""
    path, held = tmp_path / LOCK, threading.Event()
    path.touch()
    threading.Thread(target=lambda: Lock(path, patience=0.5).acquire() and held.set(), daemon=True).start()
    ends = time.monotonic() + 1.5
    while time.monotonic() < ends:
        (tmp_path / "next").touch()
        (tmp_path / "next").replace(path)
        assert not held.wait(0.05)
    assert held.wait(10)


def test_a_torn_journal_is_named_and_what_to_do(
    sweep: SweepSpec, record: Record, results: ResultsFolder, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = StudyMirror(results, sweep)
    mirror.add(record)
    journal = Path(results.uri, JOURNAL)
    for torn in (journal.read_bytes()[:-7] + b"\n{}\n", b"\x80\n{}\n"):
        journal.write_bytes(torn)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            StudyMirror(results, sweep).add(record)
        (message,) = caplog.messages
        assert f"{journal} cannot be used" in message
        assert "delete it, and the next run writes it again" in message
    journal.unlink()
    StudyMirror(results, sweep).add(record)
    assert _trials(results) == 1


# -- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_kept_until_it_is_safe_and_a_second_one_is_not(number: signal.Signals) -> None:
    at_first = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may have it ignored
    before = signal.getsignal(number)
    with interruptible() as interruption:
        os.kill(os.getpid(), number)
        assert interruption.signal == number.name
        with pytest.raises(Interrupted, match=number.name):
            interruption.check()
        with pytest.raises(Interrupted):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before
    signal.signal(number, at_first)


NOHUP = """
import os, signal
from raycl.sweep.signals import interruptible
with interruptible() as interruption:
    os.kill(os.getpid(), signal.SIGHUP)
    print(repr(interruption.signal))
"""


@pytest.mark.parametrize(("before", "caught"), [([], "'SIGHUP'"), (["nohup"], "''")])
def test_a_terminal_that_closes_stops_a_sweep_unless_nohup_ignores_it(before: list[str], caught: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    at_first = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a child ignores what its parent does
    done = subprocess.run(
        [*before, sys.executable, "-c", NOHUP], env=environment, capture_output=True, text=True, check=False
    )
    signal.signal(signal.SIGHUP, at_first)
    assert done.stdout.strip().splitlines()[-1:] == [caught], done.stderr


def test_the_check_finds_a_handler_where_nohup_ignores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: every signal is caught."""

    def all_of_them(self: Interruption) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interruption.signal == ""
        monkeypatch.setattr(Interruption, "catch", all_of_them)
        with interruptible() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interruption.signal == "SIGHUP"
    finally:
        signal.signal(signal.SIGHUP, before)
