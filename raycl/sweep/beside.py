"""What happens beside the driver's loop: mirrors, the display, whoever listens. None of it may hold up a sweep."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

CLOSE_SECONDS = 2.0
"""Patience at the end with what is still under way; who stops a job may kill it after three seconds."""

log = logging.getLogger(__name__)


class Beside:
    """Does things one after another in a thread of its own; held as a context manager.

    Args:
        what: names it in warnings, as in "the display".
        length: actions that may wait; further ones are left out.
        remedy: what makes up for what was left behind or out.

    Attributes:
        patience: seconds that the block's end waits for what is under way.
    """

    def __init__(self, what: str, length: int, remedy: str = "", patience: float = CLOSE_SECONDS) -> None:
        self.patience = patience
        self._what = what
        self._remedy = f"; {remedy}" if remedy else ""
        self._queue: queue.Queue[Callable[[], object] | None] = queue.Queue(length)
        self._thread = threading.Thread(target=self._work, name=f"raycl-{what.split()[-1]}", daemon=True)
        self._left_out = 0

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let what waits be done, for as long as the patience lasts."""
        ends = time.monotonic() + self.patience
        with suppress(queue.Full):
            self._queue.put(None, timeout=self.patience)
        self._thread.join(max(0.0, ends - time.monotonic()))
        if self._thread.is_alive():
            log.warning("%s does not answer; it was left behind%s", self._what, self._remedy)
        if self._left_out:
            log.warning("%s was too slow: %d changes were left out%s", self._what, self._left_out, self._remedy)

    def offer(self, action: Callable[[], object]) -> bool:
        """Have something done soon, without waiting for it; False where too much waits already."""
        try:
            self._queue.put_nowait(action)
        except queue.Full:
            self._left_out += 1
            return False
        return True

    def _work(self) -> None:
        while (action := self._queue.get()) is not None:
            try:
                action()
            except Exception as error:  # whoever listens must not end the sweep
                log.warning("%s: %s", self._what, error)
