"""Who a process is, in words that another process can check, without asking any clock.

Host names and process ids say too little: containers share host names and all begin with process 1. The kernel's boot
id and the PID namespace say where a process id counts, and the start time tells a process from its successor of equal
id.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

Fate = Literal["alive", "dead", "unknown"]


def identity() -> dict[str, Any]:
    """This process; what the system does not tell is empty (there is no ``/proc`` outside Linux)."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid()), **_place()}


def fate(told: Mapping[str, Any]) -> Fate:
    """What can be known here of the process that wrote an :func:`identity`.

    Only where it ran under this boot of this kernel and in this PID namespace does its number mean the same process
    here. Everywhere else nothing can be known, and nothing is guessed from names of hosts.
    """
    place, pid = _place(), told.get("pid")
    if not all(place.values()) or any(told.get(name) != here for name, here in place.items()):
        return "unknown"
    if not isinstance(pid, int) or pid < 1 or not isinstance(told.get("started"), int):
        return "unknown"
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return "dead"
    except OSError:  # another user's
        pass
    now = started(pid)
    if now is None:  # hidden from us, or just gone
        return "unknown"
    return "alive" if now == told["started"] else "dead"


def started(pid: int) -> int | None:
    """When a process began, in clock ticks since the boot; None where that is not told.

    0 for one that has ended and only waits for its parent to take notice: it drives nothing.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # the name may hold anything
        return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _place() -> dict[str, str]:
    """Where the ids of processes count."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "namespace": str(Path("/proc/self/ns/pid").readlink())}
    except OSError:
        return {"boot": "", "namespace": ""}
