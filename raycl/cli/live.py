"""What a person sees while a sweep runs: a table that moves on a terminal, a plain line per change elsewhere."""

from __future__ import annotations

import time
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raycl.cli.terminal import standard_output
from raycl.sweep.status import EntryStatus, SweepStatus

if TYPE_CHECKING:
    from raycl.spec.sweep import SweepSpec


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
        self._live: Live | None = None

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._status is not None:
            self._say(self._status, at_once=True)

    def update(self, status: SweepStatus) -> None:
        """Take a new look; cheap enough to be called many times a second."""
        self._status, self._received = status, time.monotonic()
        if self._live is None:
            self._say(status, at_once=False)

    def _say(self, status: SweepStatus, at_once: bool) -> None:
        """A line for each entry whose counts changed; while only tasks advance, ten times as seldom."""
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
            return Text(f"{self._name}: starting", style="dim")
        passed = time.monotonic() - self._received
        return Group(*table(self._name, status, passed))


def table(name: str, status: SweepStatus, passed: float = 0.0) -> tuple[RenderableType, ...]:
    """The status as a rich table with a line of times under it; ``passed``: seconds since the status was taken."""
    grid = Table(
        title=name,
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
    )
    grid.add_column("strategy", no_wrap=True)
    grid.add_column("phase", no_wrap=True)
    grid.add_column("", width=12)
    for heading in ("done", "running", "pruned", "failed", "task", "best"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for entry in status.entries:
        grid.add_row(*_cells(entry))
    times = Text(f"{clock(status.elapsed + passed)} elapsed", style="dim")
    if status.remaining is not None:
        times.append(f", about {clock(max(0.0, status.remaining - passed))} to go")
    return grid, times


def _cells(entry: EntryStatus) -> list[RenderableType]:
    if entry.barred is not None:
        return [Text(entry.key, style="dim"), Text("n/a", style="dim"), *[Text("")] * 7]
    complete = entry.phase in ("final", "table") and bool(entry.total) and entry.ended >= entry.total
    return [
        Text(entry.key, style="red" if entry.failure else "green" if complete else ""),
        Text("failed", style="red") if entry.failure else Text(entry.phase, style="dim"),
        ProgressBar(total=max(1, entry.total), completed=entry.ended + _share(entry), width=12),
        Text(f"{entry.done}/{entry.total}"),
        Text(str(entry.running or "")),
        Text(str(entry.pruned or "")),
        Text(str(entry.failed + entry.failed_before or ""), style="red"),
        Text(_task(entry)),
        Text("" if entry.best is None else f"{100 * entry.best:.2f} %"),
    ]


def _share(entry: EntryStatus) -> float:
    """Running trials, in whole trials, by the tasks they have learned."""
    return sum(entry.tasks) / max(1, entry.num_tasks)


def _task(entry: EntryStatus) -> str:
    """``"2 of 5"``: the task that is being learned, of the trial that is furthest."""
    return f"{min(max(entry.tasks) + 1, entry.num_tasks)} of {entry.num_tasks}" if entry.tasks else ""


def plain(entry: EntryStatus) -> str:
    """One line of text: ``"search ewc: 3 of 10 done, 1 running (task 2 of 5), best 81.20 %"``."""
    if entry.barred is not None:
        return f"{entry.key}: n/a, {entry.barred}"
    if entry.failure:
        return f"{entry.key}: failed, {entry.failure}"
    parts = [f"{entry.done} of {entry.total} done"]
    if entry.running:
        parts.append(f"{entry.running} running" + (f" (task {_task(entry)})" if entry.tasks else ""))
    counts = ((entry.pruned, "pruned"), (entry.failed, "failed"), (entry.failed_before, "failed before"))
    parts += [f"{count} {word}" for count, word in counts if count]
    if entry.best is not None:
        parts.append(f"best {100 * entry.best:.2f} %")
    return f"{entry.phase} {entry.key}: {', '.join(parts)}"


def clock(seconds: float) -> str:
    """``"1:05"``, ``"2:03:09"``."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
