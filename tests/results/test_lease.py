"""One driver a folder, whatever clocks, hosts and process ids say."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycl.errors import FolderInUse, StoreError
from raycl.results import lease as leases
from raycl.results.files import Files, dump_json
from raycl.results.lease import LONGEST_PERIOD, PERIOD_SECONDS, Lease
from raycl.results.process import fate, identity, started
from raycl.results.store import ResultsFolder

pytestmark = pytest.mark.alone

DAY = 86400.0


class FakeClock:
    """Time passes by sleeping; something may happen in it."""

    def __init__(self, meanwhile: Callable[[float], None] = lambda now: None) -> None:
        self.now = 1000.0
        self._meanwhile = meanwhile

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._meanwhile(self.now)

    @property
    def slept(self) -> float:
        return self.now - 1000.0


def _leave(files: Files, **changes: object) -> dict[str, Any]:
    """The file of a driver of which nothing can be known from here."""
    elsewhere = {"host": "elsewhere", "pid": 4711, "started": 5, "boot": "another", "namespace": "pid:[1]"}
    held = {**elsewhere, "token": "t", "counter": 7, "period": PERIOD_SECONDS, "heartbeat": time.time()} | changes
    files.write("lease.json", dump_json({name: value for name, value in held.items() if value is not None}))
    return held


def _beats(files: Files, every: float, **changes: object) -> Callable[[float], None]:
    """A driver elsewhere that lives, and writes at multiples of ``every``."""
    last = [1000 // every]

    def pass_time(now: float) -> None:
        if now // every > last[0]:
            last[0] = now // every
            _leave(files, counter=last[0], **changes)

    return pass_time


def _ended_process() -> int:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    return dead.pid


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files.at(tmp_path)


def test_a_live_driver_elsewhere_refuses_as_soon_as_it_moves(results: ResultsFolder) -> None:
    _leave(results.files, counter=100)
    clock = FakeClock(_beats(results.files, 10.0))
    with pytest.raises(FolderInUse, match=r"host elsewhere, process 4711.*--force"):
        Lease(results.files, clock=clock).__enter__()
    assert clock.slept <= 10.0
    with results.lease(force=True):
        assert results.read_json("lease.json")["pid"] == os.getpid()
    assert results.read_json("lease.json") is None


@pytest.mark.parametrize("ahead", [-DAY, -90.0, 0.0, 90.0, DAY])
def test_a_lease_that_stands_still_is_taken_after_its_period_whatever_its_clock(files: Files, ahead: float) -> None:
    _leave(files, heartbeat=time.time() + ahead)
    clock = FakeClock()
    with Lease(files, clock=clock):
        assert PERIOD_SECONDS <= clock.slept <= PERIOD_SECONDS + 2
        assert files.read_json("lease.json")["pid"] == os.getpid()


@pytest.mark.parametrize("ahead", [-DAY, -90.0, 0.0, 90.0, DAY])
def test_a_lease_that_moves_is_not_taken_whatever_its_clock(files: Files, ahead: float) -> None:
    _leave(files, counter=0, heartbeat=time.time() + ahead)
    clock = FakeClock(_beats(files, 50.0, heartbeat=time.time() + ahead))
    with pytest.raises(FolderInUse):
        Lease(files, clock=clock).__enter__()


def test_the_check_of_clocks_finds_a_lease_that_goes_by_the_clock(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: a heartbeat older than a minute by one's own clock is dead, a younger one alive."""

    def by_the_clock(self: Lease, first: dict[str, Any]) -> None:
        if time.time() - first["heartbeat"] < 60:
            raise FolderInUse("in use")

    monkeypatch.setattr(Lease, "_watch", by_the_clock)
    with pytest.raises(FolderInUse):
        test_a_lease_that_stands_still_is_taken_after_its_period_whatever_its_clock(files, DAY)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_lease_that_moves_is_not_taken_whatever_its_clock(files, -90.0)


def test_the_file_says_for_how_long_to_watch_within_bounds(files: Files) -> None:
    for told, watched in ((5.0, 5.0), (1e9, PERIOD_SECONDS), (float("nan"), PERIOD_SECONDS), ("x", PERIOD_SECONDS)):
        _leave(files, period=told)
        clock = FakeClock()
        with Lease(files, clock=clock):
            assert watched <= clock.slept <= watched + 2 < LONGEST_PERIOD


def test_files_of_earlier_versions_are_watched_for_a_minute(files: Files) -> None:
    """They hold a host's name, a process id and a clock's time: none of it shows a death."""
    old = {"host": socket.gethostname(), "pid": _ended_process(), "token": "t", "heartbeat": time.time() - DAY}
    files.write("lease.json", dump_json(old))
    clock = FakeClock()
    with Lease(files, clock=clock):
        assert clock.slept >= PERIOD_SECONDS
    files.write("lease.json", dump_json(old))
    moving = FakeClock(lambda now: files.write("lease.json", dump_json({**old, "heartbeat": now})))
    with pytest.raises(FolderInUse):
        Lease(files, clock=moving).__enter__()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"pid": "x"}', b"{", b'"text"'])
def test_a_file_that_says_nothing_is_watched_too(files: Files, content: bytes) -> None:
    files.write("lease.json", content)
    clock = FakeClock()
    with Lease(files, clock=clock):
        assert clock.slept >= PERIOD_SECONDS


def test_a_folder_given_back_while_one_watches_is_taken_then(files: Files) -> None:
    _leave(files)
    clock = FakeClock(lambda now: files.delete("lease.json") if now == 1004 else None)
    with Lease(files, clock=clock):
        assert clock.slept < 6


def test_the_same_folder_cannot_be_driven_twice(results: ResultsFolder) -> None:
    with results.lease(), pytest.raises(FolderInUse, match=str(os.getpid())):
        results.lease().__enter__()


def test_a_live_process_of_this_machine_refuses_at_once(files: Files) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        _leave(files, **{**identity(), "pid": living.pid, "started": started(living.pid)})
        clock = FakeClock()
        with pytest.raises(FolderInUse, match=f"process {living.pid}"):
            Lease(files, clock=clock).__enter__()
        assert clock.slept == 0
        living.communicate(b"\n")


@pytest.mark.parametrize("heartbeat", [time.time(), time.time() + DAY])
def test_a_dead_process_of_this_machine_is_taken_over_at_once(files: Files, heartbeat: float) -> None:
    _leave(files, **{**identity(), "pid": _ended_process(), "heartbeat": heartbeat})
    clock = FakeClock()
    with Lease(files, clock=clock):
        assert clock.slept < 1


def test_my_own_number_in_a_restarted_container_is_dead(files: Files) -> None:
    """Every container begins with process 1; only the start time tells the two apart."""
    mine = identity()
    _leave(files, **{**mine, "started": mine["started"] - 500})
    clock = FakeClock()
    with Lease(files, clock=clock):
        assert clock.slept < 1


def test_a_lease_that_this_process_no_longer_holds_is_dead(files: Files) -> None:
    """A notebook whose storage was away when its last sweep gave the folder back."""
    _leave(files, **identity())
    clock = FakeClock()
    with Lease(files, clock=clock):
        assert clock.slept < 1


@pytest.mark.parametrize("other", [{"namespace": "pid:[1]"}, {"boot": "another"}])
def test_a_number_of_another_namespace_or_boot_says_nothing(files: Files, other: dict[str, str]) -> None:
    """A live driver in a container of the same host name: its number is dead here, and it must not be robbed."""
    told = {**identity(), "pid": _ended_process(), **other}
    assert fate(told) == "unknown"
    _leave(files, **told)
    with pytest.raises(FolderInUse):
        Lease(files, clock=FakeClock(_beats(files, 10.0, **told))).__enter__()


def test_the_check_of_namespaces_finds_a_lease_that_goes_by_the_host_name(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: equal host names mean equal process ids."""

    def by_name(holder: dict[str, Any]) -> str:
        if holder.get("host") != socket.gethostname():
            return "unknown"
        return "dead" if started(holder["pid"]) is None else "alive"

    monkeypatch.setattr(leases, "fate", by_name)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        _robbed(files)
    mine = identity()
    _leave(files, **{**mine, "started": mine["started"] - 500})
    monkeypatch.setattr(leases, "_held", {"t"})  # as if the number alone were the process
    with pytest.raises(FolderInUse):
        Lease(files, clock=FakeClock()).__enter__()


def _robbed(files: Files) -> None:
    told = {**identity(), "pid": _ended_process(), "namespace": "pid:[1]"}
    _leave(files, **told)
    with pytest.raises(FolderInUse):
        Lease(files, clock=FakeClock(_beats(files, 10.0, **told))).__enter__()


def test_a_process_that_ended_but_was_not_taken_notice_of_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        told = {**identity(), "pid": child.pid, "started": started(child.pid)}
        assert fate(told) == "alive"
        child.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while fate(told) == "alive" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert fate(told) == "dead"
    assert fate(told) == "dead"


def test_two_that_take_a_dead_folder_in_the_same_moment_have_one_winner(files: Files) -> None:
    _leave(files)
    with pytest.raises(FolderInUse, match="process 99"):
        Lease(files, clock=FakeClock(lambda now: _leave(files, pid=99) and None if now > 1060 else None)).__enter__()


def test_the_heartbeat_goes_on_and_notices_another_driver(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), Lease(files, heartbeat=0.02) as lease:
        first = files.read_json("lease.json")["counter"]
        deadline = time.monotonic() + 10
        while files.read_json("lease.json")["counter"] < first + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert files.read_json("lease.json")["counter"] >= first + 2
        with Lease(files, force=True):
            assert lease.lost.wait(10)
    assert files.read_json("lease.json") is None
    assert any("another driver took" in message for message in caplog.messages)


def test_a_storage_that_is_away_ends_neither_the_heartbeat_nor_the_block(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = threading.Event()
    read = Files.read

    def sometimes(self: Files, relative: str) -> bytes | None:
        if away.is_set():
            raise StoreError("away")
        return read(self, relative)

    monkeypatch.setattr(Files, "read", sometimes)
    with Lease(files, heartbeat=0.01) as lease:
        away.set()
        time.sleep(0.1)
        away.clear()
        before = json.loads((Path(files.root) / "lease.json").read_text())["counter"]
        deadline = time.monotonic() + 10
        while files.read_json("lease.json")["counter"] == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert files.read_json("lease.json")["counter"] > before
        assert not lease.lost.is_set()
        away.set()
    assert (Path(files.root) / "lease.json").exists()
