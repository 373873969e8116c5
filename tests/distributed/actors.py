"""Processes of actors: found, suspended, and seen to end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import ray


def gone(process: int, seconds: float = 5.0) -> bool:
    """Whether a process has ended, or ends soon."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not Path(f"/proc/{process}").exists():
            return True
        time.sleep(0.05)
    return False


def process_of(actor: Any) -> int:
    return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid()), timeout=60))


def stop(process: int) -> None:
    """Suspend a process, and wait until each of its threads stands still: a signal takes its time."""
    os.kill(process, signal.SIGSTOP)
    threads = list(Path(f"/proc/{process}/task").iterdir())
    while not all((thread / "stat").read_text().rpartition(")")[2].split()[0] == "T" for thread in threads):
        time.sleep(0.01)
