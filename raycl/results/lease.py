"""One driver per results folder: a small file says who writes there, and a counter in it that the driver lives.

Clocks of two machines are never compared: 90 s apart, a live folder would be taken over, and a day apart, a dead one be
barred for a day. Where the file shows that its driver was a process of this machine and is dead, the folder is taken at
once. Everywhere else one watches, by one's own clock: a file that moves belongs to a live driver, and one that stands
still for its period does not.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from types import TracebackType
from typing import Any, Protocol

from raycl.errors import FolderInUse, StoreError, TornFile
from raycl.results.files import Files, dump_json
from raycl.results.process import Fate, fate, identity

BEAT_SECONDS = 10.0
PERIOD_SECONDS = 60.0
"""A live driver moves its counter within this time, on slow storage too. Written into the file, for watchers."""
LONGEST_PERIOD = 600.0
"""No file can make a watcher wait for longer."""
LOOK_SECONDS = 1.0
SETTLE_SECONDS = 0.5
"""Two that take one folder in the same moment have both written by then; the last one keeps it."""

LEASE_FILE = "lease.json"
log = logging.getLogger(__name__)
_held: set[str] = set()
"""Tokens of the leases that this process holds."""


class WatchersClock(Protocol):
    """Time as the watcher sees it."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


class Lease:
    """Held as a context manager.

    Args:
        force: take the folder even where its driver seems alive.
        heartbeat: seconds between two movements of the counter.
        clock: watches with it; the ``time`` module by default.

    Attributes:
        lost: set once another driver has taken the folder.
    """

    def __init__(
        self, files: Files, force: bool = False, heartbeat: float = BEAT_SECONDS, clock: WatchersClock = time
    ) -> None:
        self._files = files
        self._force = force
        self._heartbeat = heartbeat
        self._clock = clock
        self._token = uuid.uuid4().hex
        self._counter = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = threading.Event()

    def __enter__(self) -> Lease:
        """Take the folder.

        Raises:
            FolderInUse: another driver lives, as far as can be seen from here.
        """
        if not self._files.write_once(LEASE_FILE, self._record()):
            self._take_over()
        _held.add(self._token)
        self._thread = threading.Thread(target=self._beat, name="raycl-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        _held.discard(self._token)
        try:
            if not self.lost.is_set() and self._mine():
                self._files.delete(LEASE_FILE)
        except StoreError as failure:  # the counter stands still from now on, and what the block says matters more
            log.warning("the lease cannot be given back: %s", failure)

    def _take_over(self) -> None:
        """Write over another driver's file, where that driver is gone."""
        holder = _read(self._files)
        if not self._force and not _dead(holder):
            self._watch(holder)
        self._files.write(LEASE_FILE, self._record())
        self._clock.sleep(SETTLE_SECONDS)
        holder = _read(self._files)
        if holder.get("token") != self._token:
            raise self._in_use(holder)

    def _watch(self, first: dict[str, Any]) -> None:
        """Return once the file has stood still for its period.

        Raises:
            FolderInUse: it moved, or its process is seen to live.
        """
        if fate(first) == "alive":
            raise self._in_use(first)
        period, began = _period(first), self._clock.monotonic()
        log.warning(
            "%s: %s drove this folder; watching for at most %.0f s whether it still does",
            self._files.name(""),
            _who(first),
            period,
        )
        while self._clock.monotonic() - began < period:
            self._clock.sleep(LOOK_SECONDS)
            now = _read(self._files)
            if not now:
                return  # given back
            if now != first:
                raise self._in_use(now)

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat):
            try:
                if not self._mine():
                    self.lost.set()
                    log.warning("%s: another driver took this results folder", self._files.name(""))
                    return
                self._files.write(LEASE_FILE, self._record())
            except StoreError as error:  # a storage that is away for a moment must not end the sweep
                log.warning("lease heartbeat failed: %s", error)

    def _mine(self) -> bool:
        return bool(_read(self._files).get("token", self._token) == self._token)

    def _record(self) -> bytes:
        """Who drives. The clock's time is for people, and for earlier versions of raycl, which went by it."""
        self._counter += 1
        lease = {"token": self._token, "counter": self._counter, "period": PERIOD_SECONDS, "heartbeat": time.time()}
        return dump_json({**identity(), **lease})

    def _in_use(self, holder: dict[str, Any]) -> FolderInUse:
        return FolderInUse(
            f"results folder {self._files.name('')} is in use by a driver on {_who(holder)}; wait until it has ended, "
            "or take the folder with --force"
        )


def driver_of(files: Files) -> Fate | None:
    """What can be seen at once of the driver that holds a folder: None where nobody does."""
    holder = _read(files)
    return fate(holder) if holder else None


def _read(files: Files) -> dict[str, Any]:
    """What the file says; empty where it is absent. One that cannot be read says at least that it is there."""
    try:
        held = files.read_json(LEASE_FILE)
    except TornFile as error:
        return {"torn": str(error)}
    if held is None:
        return {}
    return held if isinstance(held, dict) and held else {"torn": repr(held)}


def _dead(holder: dict[str, Any]) -> bool:
    """Whether the file shows that nobody drives: it is gone, or its process is, or has let go of it."""
    if not holder:
        return True
    known = fate(holder)
    ours = known == "alive" and holder.get("pid") == os.getpid()
    return known == "dead" or (ours and holder.get("token") not in _held)


def _period(holder: dict[str, Any]) -> float:
    """Seconds to watch; files of earlier versions do not say."""
    told = holder.get("period")
    sound = isinstance(told, int | float) and LOOK_SECONDS < told <= LONGEST_PERIOD
    return float(told) if sound else PERIOD_SECONDS  # type: ignore[arg-type]


def _who(holder: dict[str, Any]) -> str:
    return f"host {holder.get('host', 'unknown')}, process {holder.get('pid', 'unknown')}"
