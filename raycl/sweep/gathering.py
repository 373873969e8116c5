"""Keeps the data set up to date while a sweep runs, beside the driver's loop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from raycl.errors import StoreError
from raycl.results.store import ResultsFolder

LEAST_PAUSE = 5.0
"""Seconds between two times that the data set is written."""
SHARE = 0.03
"""Of the time that passes, spent on it at most: it is written whole, and takes the longer the more there is."""
log = logging.getLogger(__name__)


class Gathering:
    """Takes in what trials leave, as often as the pauses allow.

    Args:
        allowed: whether the driver still holds the folder.
    """

    def __init__(
        self,
        results: ResultsFolder,
        allowed: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._results = results
        self._allowed = allowed
        self._clock = clock
        self._next = clock() + LEAST_PAUSE
        self._lock = threading.Lock()

    def trial_ended(self) -> None:
        """Take in what there is, unless that was done a short while ago."""
        if self._clock() >= self._next:
            self.gather()

    def gather(self, level: int = logging.INFO) -> None:
        """Take in what there is; where that cannot be, as a trial goes on just now, the next time does.

        Args:
            level: of what is logged then.
        """
        with self._lock:
            if not self._allowed():
                return
            started = self._clock()
            try:
                self._results.collect()
            except StoreError as error:
                log.log(level, "the data set stays in parts: %s", error)
            ended = self._clock()
            self._next = ended + max(LEAST_PAUSE, (ended - started) / SHARE)
