"""What ``raycl show`` prints: of a table, what is there; with ``--failures`` why and where trials failed, and whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raycl.addresses import shown
from raycl.catalog import catalog
from raycl.errors import RayclError, StoreError
from raycl.results import notes
from raycl.results.comparison import failures, standings_of
from raycl.results.failures import Failure
from raycl.results.printed import FORMATS
from raycl.results.reading import Folder, opened
from raycl.results.several import chosen, compared_folders
from raycl.results.store import ResultsFolder
from raycl.results.tables import Comparison
from raycl.spec.distribution import format_value
from raycl.spec.sweep import SweepSpec


@dataclass(frozen=True)
class View:
    """How the table of some folders is shown.

    Attributes:
        baseline: with which methods are compared; None: the sweep's own.
        metric: by what; None: average accuracy.
        strategies: the methods that are shown; empty: all.
        sort: the order of the lines; None: by rank.
        points: whether winners stand in it; None: where there is room.
    """

    baseline: str | None = None
    metric: str | None = None
    strategies: tuple[str, ...] = ()
    sort: str | None = None
    points: bool | None = None

    def of(self, folders: Sequence[Folder]) -> Comparison:
        table = compared_folders(folders, self.baseline, self.metric or "average_accuracy")
        return replace(chosen(table, self.strategies, self.sort), points=self.points)


def report(folders: Sequence[str], view: View = View()) -> RenderableType:
    """The comparison of results folders and packs; of a table, which selects nothing, what is there of it.

    Raises:
        StoreError: one of them is neither, or a part of it is damaged.
        UnknownName: what is asked for is not there.
    """
    found = [opened(folder) for folder in folders]
    if len(found) == 1 and (sweep := _sweep_of_table(found[0])) is not None:
        return _table(sweep, found[0])
    if len(found) > 1:
        _refuse_tables(found)
    return view.of(found)


def text(folders: Sequence[str], form: str, view: View = View()) -> tuple[str, list[str]]:
    """The comparison in one of :data:`raycl.results.printed.FORMATS`, and what is missing of it.

    Raises:
        StoreError: one of the folders is none, or a table, which compares nothing.
        UnknownName: what is asked for is not there.
    """
    found = [opened(folder) for folder in folders]
    _refuse_tables(found)
    table = view.of(found)
    return FORMATS[form](table), [*notes.incomplete(table.shown, table.begun, table.refused), *table.failed]


def _refuse_tables(found: Sequence[ResultsFolder]) -> None:
    for results in found:
        if _sweep_of_table(results) is not None:
            name = results.files.name("")
            raise StoreError(
                f"{name}: a table of everything selects nothing, so there are no winners to compare; show it alone, or "
                f"ask `raycl simulate {name}` what a search would have chosen"
            )


def _sweep_of_table(results: ResultsFolder) -> SweepSpec | None:
    """The sweep, where it is a table; a sweep of another installation is none, as far as one knows."""
    try:
        sweep = SweepSpec.loads(results.sweep_json, catalog())
    except (RayclError, KeyError, ValueError):
        return None
    return None if sweep.table is None else sweep


def _table(sweep: SweepSpec, results: ResultsFolder) -> RenderableType:
    table = Table(title=sweep.name, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("strategy", no_wrap=True)
    for heading in ("points", "trials", "failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in standings_of(sweep, results):
        asked, planned = one.trials("table"), one.planned.get("table", 0)
        done, failed = sum(trial.verdict is not None for trial in asked), sum(trial.failed for trial in asked)
        counts = [str(len(one.table)), str(done) if done == planned else f"{done} of {planned}", str(failed or "")]
        table.add_row(one.entry.key, *(["n/a", "", ""] if one.entry.barred else counts))
    told = f"A table selects nothing: `raycl simulate {shown(results.uri)}` says what a search would have chosen."
    return Group(table, Text(told, style="dim"))


def failure_report(folder: str) -> RenderableType:
    """The failed trials of a results folder, with the tracebacks that lie beside their verdicts.

    Raises:
        StoreError: there is no results folder, or a part of it is damaged.
    """
    results = opened(folder)
    found = failures(results)
    if not found:
        return Text(f"{results.name}: no trial has failed", style="dim")
    return Group(*(part for failure in found for part in _told(results, failure)))


def _told(results: ResultsFolder, failure: Failure) -> list[Text]:
    """One failure: whose, with what, why, and the traceback with its file."""
    spec = failure.spec
    names = ", ".join(failure.entries) or f"{spec.alias}, asked for by no method of the sweep"
    point = "".join(f", {path} {format_value(value)}" for path, value in spec.point.items())
    head = Text.assemble((names, "bold"), f": {spec.phase}, seed {spec.seed_label}{point}, trial {spec.hash}")
    reason = Text(failure.reason, style="red")
    if not failure.traceback:
        return [head, reason, Text("no traceback was stored\n", style="dim")]
    trace = results.trial(spec).traceback().rstrip()
    return [head, reason, Text(failure.traceback, style="dim"), Text(f"{trace}\n")]
