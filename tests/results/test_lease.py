"""One driver a folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raycl.errors import FolderInUse
from raycl.results.files import Files, dump_json
from raycl.results.lease import FRESH_SECONDS, Lease
from raycl.results.store import Results


def _leave(results: Results, **changes: object) -> None:
    held = {"host": "elsewhere", "pid": 4711, "token": "t", "heartbeat": time.time()} | changes
    results.files.write("lease.json", dump_json(held))


def test_a_fresh_lease_refuses_and_names_its_holder(results: Results) -> None:
    _leave(results)
    with pytest.raises(FolderInUse, match=r"host elsewhere, process 4711.*--force"):
        results.lease().__enter__()
    with results.lease(force=True):
        assert results.read_json("lease.json") is not None
    assert results.read_json("lease.json") is None


def test_the_same_folder_cannot_be_driven_twice(results: Results) -> None:
    with results.lease(), pytest.raises(FolderInUse, match=str(os.getpid())):
        results.lease().__enter__()


def test_a_stale_lease_is_taken_over(results: Results) -> None:
    _leave(results, heartbeat=time.time() - FRESH_SECONDS - 1)
    with results.lease():
        pass


def test_a_dead_process_of_this_host_is_taken_over_at_once(results: Results) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    _leave(results, host=socket.gethostname(), pid=dead.pid)
    with results.lease():
        pass


def test_the_heartbeat_goes_on_and_notices_another_driver(tmp_path: Path) -> None:
    files = Files.at(tmp_path)
    with Lease(files, heartbeat=0.02) as lease:
        first = files.read_json("lease.json")["heartbeat"]
        deadline = time.monotonic() + 10
        while files.read_json("lease.json")["heartbeat"] == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert files.read_json("lease.json")["heartbeat"] > first
        with Lease(files, force=True):
            assert lease.lost.wait(10)
    assert files.read_json("lease.json") is None
