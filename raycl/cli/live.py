"""What a person sees while a sweep runs: a table that moves on a terminal, a plain line per change elsewhere."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from raycl.addresses import shown
from raycl.cli.terminal import standard_output
from raycl.sweep.status import EntryStatus, SweepStatus
from raycl.sweep.status_table import StatusTable, clock, task_of

if TYPE_CHECKING:
    from raycl.spec.sweep import SweepSpec


class Heard(logging.Handler):
    """Keeps the warnings that would scroll away above a table, and hands them on to whoever shows them otherwise.

    Attributes:
        told: all so far.
    """

    def __init__(self, before: logging.Handler | None) -> None:
        super().__init__(logging.WARNING)
        self.before = before
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(shown(record.getMessage()))
        if self.before is not None:
            self.before.handle(record)


class LiveTable:
    """Shows statuses: ``with LiveTable(sweep) as table: run_sweep(..., on_status=table.update)``.

    Args:
        sweep: its name heads the table.
        console: where to write; standard output by default.
        every: least seconds between two plain lines of one strategy, where the output is no terminal.
    """

    def __init__(self, sweep: SweepSpec, console: Console | None = None, every: float = 3.0) -> None:
        self._name = sweep.name
        self._console = console or standard_output(goes_on=True)
        self._every = every
        self._status: SweepStatus | None = None
        self._received = 0.0
        self._said: dict[str, tuple[float, EntryStatus]] = {}
        self._doing = ""
        self._live: Live | None = None
        self._heard = Heard(logging.lastResort)

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            logging.lastResort = self._heard
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            logging.lastResort = self._heard.before
        elif self._status is not None:
            self._say(self._status, at_once=True)

    def update(self, status: SweepStatus) -> None:
        """Take a new look; cheap enough to be called many times a second."""
        self._status, self._received = status, time.monotonic()
        if self._live is None:
            self._say(status, at_once=False)

    def _say(self, status: SweepStatus, at_once: bool) -> None:
        """A line for each entry whose counts changed; while only tasks advance, ten times as seldom."""
        if status.doing != self._doing:
            self._doing = status.doing
            if self._doing:
                self._print(status.elapsed, self._doing)
        for entry in status.entries:
            if at_once or self._worth_saying(entry):
                self._speak(entry, status.elapsed)

    def _worth_saying(self, entry: EntryStatus) -> bool:
        if entry.key not in self._said:
            return entry.barred is not None or bool(entry.running or entry.ended or entry.failure)
        spoken, before = self._said[entry.key]
        only_tasks = entry == replace(before, tasks=entry.tasks)
        return time.monotonic() - spoken >= self._every * (10 if only_tasks else 1)

    def _speak(self, entry: EntryStatus, elapsed: float) -> None:
        if entry != self._said.get(entry.key, (0.0, None))[1]:
            self._said[entry.key] = (time.monotonic(), entry)
            self._print(elapsed, plain(entry))

    def _print(self, elapsed: float, text: str) -> None:
        self._console.print(f"[{clock(elapsed)}] {text}", markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        status = self._status
        if status is None:
            return Text(f"{self._name}: looking into the results folder", style="dim")
        passed = time.monotonic() - self._received
        return StatusTable(self._name, status, passed, self._heard.told, self._console.height - 1)


def plain(entry: EntryStatus) -> str:
    """One line of text: ``"search ewc: 3 of 10 done, 1 running (task 2 of 5), best 81.20 %"``."""
    if entry.barred is not None:
        return f"{entry.key}: n/a, {entry.barred}"
    if entry.failure:
        return f"{entry.key}: failed, {entry.failure}"
    parts = [f"{entry.done} of {entry.total} done"]
    if entry.running:
        parts.append(f"{entry.running} running" + (f" (task {task_of(entry)})" if entry.tasks else ""))
    if entry.waiting:
        parts.append(f"{entry.waiting} waiting")
    counts = ((entry.pruned, "pruned"), (entry.failed, "failed"), (entry.failed_before, "failed before"))
    parts += [f"{count} {word}" for count, word in counts if count]
    if entry.best is not None:
        parts.append(f"best {100 * entry.best:.2f} %")
    return f"{entry.phase} {entry.key}: {', '.join(parts)}"
