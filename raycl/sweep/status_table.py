"""Where a running sweep stands, as a table that fits where it is shown: columns go, entries fold, figures stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raycl.sweep.status import EntryStatus, SweepStatus

GO_FIRST = ("bar", "phase", "task", "pruned", "waiting", "running", "failed")
"""Columns that go where there is no room, the first one first."""
ONLY_IF_ANY = ("waiting", "pruned", "failed")
"""Columns that are there once they have something to say."""
BAR = 12
GAP = 2
SHORTEST_NAME = 8

URGENT = ("running", "failed", "waiting", "begun", "to come", "complete", "n/a")
"""How an entry stands; where not all fit, those that stand first are shown first."""


@dataclass(frozen=True)
class StatusTable:
    """The status of a sweep, with the times and the last warnings below it.

    Attributes:
        passed: seconds since the status was taken.
        warnings: the latest last; where there is no room for all, the latest is shown.
        height: lines there are, those below the table included; None: as many as it takes.
    """

    name: str
    status: SweepStatus
    passed: float = 0.0
    warnings: Sequence[str] = ()
    height: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        below = [self._times(width), *self._warned(width)]
        shown, folded = self._room(None if self.height is None else self.height - 2 - len(below))
        yield self._fitted(shown, width)
        if folded:
            counts = Counter(standing(entry) for entry in folded)
            told = ", ".join(f"{counts[how]} {how}" for how in URGENT if counts[how])
            yield _cut(f"and {len(folded)} more: {told}", width, "dim")
        yield from below

    def _room(self, lines: int | None) -> tuple[Sequence[EntryStatus], Sequence[EntryStatus]]:
        """The entries that are shown, and those that are folded into one line, each in the order of the sweep file."""
        entries = self.status.entries
        if lines is None or len(entries) <= lines:
            return entries, ()
        first = sorted(range(len(entries)), key=lambda place: URGENT.index(standing(entries[place])))
        kept = set(first[: max(1, lines - 1)])
        return (
            [entry for place, entry in enumerate(entries) if place in kept],
            [entry for place, entry in enumerate(entries) if place not in kept],
        )

    def _fitted(self, entries: Sequence[EntryStatus], width: int) -> Table:
        """The table with as many columns as there is room for; then names are cut, and never a figure."""
        rows = [_cells(entry) for entry in entries]
        widths = {
            name: max(cell_len(str(row[name])) for row in rows) if rows else 0 for name in ("strategy", *_COLUMNS)
        }
        kept = ["strategy", *(name for name in _COLUMNS if widths[name] or name not in ONLY_IF_ANY)]
        widths = {name: BAR if name == "bar" else max(widths[name], len(name)) for name in kept}
        for name in GO_FIRST:
            if sum(widths.values()) + GAP * (len(widths) - 1) <= width:
                break
            widths.pop(name, None)
        over = sum(widths.values()) + GAP * (len(widths) - 1) - width
        widths["strategy"] -= max(0, min(over, widths["strategy"] - SHORTEST_NAME))
        return self._of(widths, rows)

    def _of(self, widths: Mapping[str, int], rows: Sequence[Mapping[str, RenderableType]]) -> Table:
        table = Table(
            title=self.name,
            title_justify="left",
            title_style="bold",
            box=None,
            padding=(0, GAP, 0, 0),
            pad_edge=False,
        )
        for name, width in widths.items():
            left = name in ("strategy", "phase", "bar")
            heading = "" if name == "bar" else name
            table.add_column(heading, justify="left" if left else "right", no_wrap=True, width=width)
        for row in rows:
            table.add_row(*(row[name] for name in widths))
        return table

    def _times(self, width: int) -> Text:
        status = self.status
        told = f"{clock(status.elapsed + self.passed)} elapsed"
        if status.remaining is not None:
            told += f", about {clock(max(0.0, status.remaining - self.passed))} to go"
        if status.doing:
            told += f", {status.doing}"
        return _cut(told, width, "dim")

    def _warned(self, width: int) -> list[Text]:
        if not self.warnings:
            return []
        before = f" ({len(self.warnings) - 1} more above)" if len(self.warnings) > 1 else ""
        room = width - len(before)
        return [Text.assemble(_cut(f"warning: {self.warnings[-1]}", room, "yellow"), (before, "dim"))]


def _cut(text: str, width: int, style: str) -> Text:
    """One line of words, however narrow it is."""
    line = Text(" ".join(text.split()), style=style, no_wrap=True)
    line.truncate(max(1, width), overflow="ellipsis")
    return line


_COLUMNS = ("phase", "bar", "done", "running", "waiting", "pruned", "failed", "task", "best")


def standing(entry: EntryStatus) -> str:
    """How an entry stands: one of :data:`URGENT`."""
    if entry.barred is not None:
        return "n/a"
    if entry.failure:
        return "failed"
    if entry.running:
        return "running"
    if entry.phase in ("final", "table") and entry.total and entry.ended >= entry.total:
        return "complete"
    if entry.waiting:
        return "waiting"
    return "begun" if entry.ended or entry.phase == "final" else "to come"


def _cells(entry: EntryStatus) -> dict[str, RenderableType]:
    how = standing(entry)
    if how == "n/a":
        return {
            "strategy": Text(entry.key, style="dim"),
            **dict.fromkeys(_COLUMNS, ""),
            "phase": Text(how, style="dim"),
        }
    style = {"failed": "red", "complete": "green"}.get(how, "")
    failed = entry.failed + entry.failed_before
    return {
        "strategy": Text(entry.key, style=style),
        "phase": Text(entry.phase, style="dim"),
        "bar": ProgressBar(total=max(1, entry.total), completed=entry.ended + _share(entry), width=BAR),
        "done": f"{entry.done}/{entry.total}",
        "running": str(entry.running or ""),
        "waiting": str(entry.waiting or ""),
        "pruned": str(entry.pruned or ""),
        "failed": Text(str(failed or ""), style="red"),
        "task": task_of(entry),
        "best": Text("failed", "red") if entry.failure else "" if entry.best is None else f"{100 * entry.best:.2f} %",
    }


def _share(entry: EntryStatus) -> float:
    """Running trials, in whole trials, by the tasks they have learned."""
    return sum(entry.tasks) / max(1, entry.num_tasks)


def task_of(entry: EntryStatus) -> str:
    """``"2 of 5"``: the task that is being learned, of the trial that is furthest."""
    return f"{min(max(entry.tasks) + 1, entry.num_tasks)} of {entry.num_tasks}" if entry.tasks else ""


def clock(seconds: float) -> str:
    """``"1:05"``, ``"2:03:09"``."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
