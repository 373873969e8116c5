"""What ``raycl show --failures`` prints: every trial that failed, whose it is, why and where."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from raycl.results.comparison import failures
from raycl.results.failures import Failure
from raycl.results.reading import opened
from raycl.results.store import ResultsFolder
from raycl.spec.distribution import format_value


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
