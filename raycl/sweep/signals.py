"""Ctrl-C, SIGTERM and a terminal that closes end a sweep at the next safe point; a second signal ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The sweep was asked to stop. No ``Exception``, so that neither Tune nor a guard holds it up."""


@dataclass
class Interruption:
    """What was asked for so far.

    Attributes:
        signal: name of the first signal; empty while there was none.
        at_once: the first signal ends the block where it stands, too.
    """

    signal: str = ""
    at_once: bool = False

    def check(self) -> None:
        """Raise where a signal came.

        Raises:
            Interrupted: it did.
        """
        if self.signal:
            raise Interrupted(self.signal)

    def catch(self) -> None:
        """Catch the signals from now on. Only a process's main thread can; in others nothing is caught.

        A SIGHUP that is ignored stays ignored: a sweep under ``nohup`` outlives its terminal. The others are meant for
        the sweep, even where a shell that put it into the background has them ignored.
        """
        if threading.current_thread() is threading.main_thread():
            for number in CAUGHT:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.signal = bool(self.signal), signal.Signals(number).name
        if again or self.at_once:
            raise Interrupted(self.signal)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Catch SIGINT, SIGTERM and SIGHUP for the duration of a block."""
    before = {number: signal.getsignal(number) for number in CAUGHT}
    state = Interruption()
    state.catch()
    try:
        yield state
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
