"""One driver per results folder: a small file says who writes there, and a heartbeat says that it still does."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from types import TracebackType
from typing import Any

from raycl.errors import FolderInUse, StoreError
from raycl.results.files import Files, dump_json

HEARTBEAT_SECONDS = 10.0
FRESH_SECONDS = 60.0
"""A heartbeat older than this belongs to a driver that is gone. Clocks of hosts may differ by less than this."""

FILE = "lease.json"
log = logging.getLogger(__name__)


class Lease:
    """Held as a context manager.

    Args:
        force: take the folder even where another driver's heartbeat is fresh.

    Attributes:
        lost: set once another driver has taken the folder.
    """

    def __init__(self, files: Files, force: bool = False, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._files = files
        self._force = force
        self._heartbeat = heartbeat
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = threading.Event()

    def __enter__(self) -> Lease:
        """Take the folder.

        Raises:
            FolderInUse: another driver's heartbeat is fresh, and it is not a dead process of this host.
        """
        if not self._files.write_once(FILE, self._record()):
            holder = self._files.read_json(FILE)
            if holder and not self._force and _alive(holder):
                raise self._in_use(holder)
            self._files.write(FILE, self._record())
            holder = self._files.read_json(FILE)
            if holder is not None and holder.get("token") != self._token:  # another one took it in the same moment
                raise self._in_use(holder)
        self._thread = threading.Thread(target=self._beat, name="raycl-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            if not self.lost.is_set() and self._mine():
                self._files.delete(FILE)
        except StoreError as failure:  # the lease runs out by itself, and what the block has to say matters more
            log.warning("the lease cannot be given back: %s", failure)

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat):
            try:
                if not self._mine():
                    self.lost.set()
                    log.warning("%s: another driver took this results folder", self._files.uri)
                    return
                self._files.write(FILE, self._record())
            except StoreError as error:  # a storage that is away for a moment must not end the sweep
                log.warning("lease heartbeat failed: %s", error)

    def _mine(self) -> bool:
        holder = self._files.read_json(FILE)
        return holder is None or holder.get("token") == self._token

    def _record(self) -> bytes:
        return dump_json(
            {"host": socket.gethostname(), "pid": os.getpid(), "token": self._token, "heartbeat": time.time()}
        )

    def _in_use(self, holder: dict[str, Any]) -> FolderInUse:
        return FolderInUse(
            f"results folder {self._files.uri} is in use by a driver on host {holder.get('host')}, "
            f"process {holder.get('pid')}; wait until it has ended, or take the folder with --force"
        )


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the holder's heartbeat is fresh and nothing shows that its process has ended."""
    if time.time() - float(holder.get("heartbeat", 0.0)) > FRESH_SECONDS:
        return False
    if holder.get("host") != socket.gethostname():
        return True
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
