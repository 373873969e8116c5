"""What ``raycl show`` prints: of a table, what is there; with ``--failures`` why and where trials failed, and whose."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raycl.addresses import shown
from raycl.catalog import catalog
from raycl.errors import RayclError
from raycl.results.comparison import Told, failures
from raycl.results.failures import Failure
from raycl.results.reading import opened, read_trials
from raycl.results.standing import standings
from raycl.results.store import ResultsFolder
from raycl.results.tables import comparison
from raycl.spec.distribution import format_value
from raycl.spec.sweep import SweepSpec


def report(folder: str, baseline: str | None = None) -> RenderableType:
    """The comparison of a results folder; of a table, which selects nothing, what is there of it.

    Args:
        baseline: with which methods are compared; None: the sweep's own.

    Raises:
        StoreError: there is no results folder, or a part of it is damaged.
    """
    results = opened(folder)
    try:
        sweep = SweepSpec.loads(results.sweep_json, catalog())
    except (RayclError, KeyError, ValueError):  # of another installation: the comparison says so
        return comparison(results, baseline)
    return comparison(results, baseline) if sweep.table is None else _table(sweep, results)


def _table(sweep: SweepSpec, results: ResultsFolder) -> RenderableType:
    trials = {trial["trial"]: trial for trial in read_trials(results).to_pylist()}
    table = Table(title=sweep.name, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("strategy", no_wrap=True)
    for heading in ("points", "trials", "failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in standings(sweep, results, Told(sweep, results, trials)):
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
