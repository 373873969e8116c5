"""The page: everything that a reader who was not there asks of a sweep, in one file that loads nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers.data import YamlLexer

import raycl
from raycl.addresses import shown
from raycl.results.comparison import Line, failures
from raycl.results.layout import columns, winner
from raycl.results.packed import Pack
from raycl.results.report.answer import answers
from raycl.results.report.pictures import pictures
from raycl.results.report.question import asked, protocol
from raycl.results.searched import told
from raycl.results.store import REPORT, ResultsFolder
from raycl.results.tables import Comparison
from raycl.results.view import Results
from raycl.spec.distribution import format_value
from raycl.spec.sweep import SweepSpec

log = logging.getLogger(__name__)

TEMPLATE = "page.html.jinja"
MOST_FAILURES = 100
SELECTS_NOTHING = "This is a table of points: nothing was selected, so that no method is said to be the best."
PHASES_IN_WORDS = {"search": "search", "finalists": "finalists", "final": "final", "table": "table"}
FACTS = {
    "raycl": "raycl",
    "commit": "commit",
    "torch": "torch",
    "cpu_capability": "processor",
    "threads": "threads of a trial",
    "data": "data, by fingerprint",
}
"""Columns of the trials table -> in words."""


def write_report(folder: ResultsFolder) -> str:
    """Write the report of a results folder into it.

    Returns:
        The file, as a person would name it.

    Raises:
        StoreError: the folder cannot be written, or a part of it is damaged.
    """
    folder.files.write(REPORT, page(Results(folder)).encode())
    return folder.files.name(REPORT)


def leave_report(folder: ResultsFolder) -> str:
    """:func:`write_report` at the end of a run: what breaks there costs the report alone.

    Returns:
        The file; empty where there is none.
    """
    try:
        return write_report(folder)
    except Exception as error:
        log.warning("no report: %s (`raycl report` writes one)", str(error) or type(error).__name__)
        return ""


def page(results: Results) -> str:
    """The page as text; what is not in the results has no section."""
    table = results.table
    sweeps = list(zip(results.sweeps, results.folders, strict=True))
    trials = results.trials.to_pylist()
    selects = any(sweep.table is None for sweep, _ in sweeps)
    return _template().render(
        title=table.sweep,
        version=raycl.__version__,
        complete=table.complete,
        answers=answers(table) if selects else [("", SELECTS_NOTHING)],
        questions=[_question(sweep, len(sweeps) > 1) for sweep, _ in sweeps],
        table=_table(table),
        notes=table.notes,
        winners=[row for line in table.lines for row in _winner(line, results)],
        pictures=pictures(results),
        spent=_spent(trials),
        seeds=_seeds(trials),
        failures=[row for folder in results.folders for row in _failures(folder)],
        facts=_facts(trials),
        goes_on=[_goes_on(sweep, folder, table.complete) for sweep, folder in sweeps],
        style=_highlighting().get_style_defs(".yaml"),
        dark_style=_highlighting("github-dark").get_style_defs(".yaml"),
    )


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(TEMPLATE)


def _highlighting(style: str = "default") -> HtmlFormatter:
    return HtmlFormatter(style=style, nowrap=True, nobackground=True)


def _question(sweep: SweepSpec, named: bool) -> dict[str, Any]:
    return {
        "name": sweep.name if named else "",
        "asked": asked(sweep),
        "protocol": protocol(sweep),
        "yaml": highlight(sweep.text, YamlLexer(), _highlighting()),
        "lines": sweep.text.count("\n"),
    }


def _table(table: Comparison) -> dict[str, Any]:
    """Headings, and for each line its cells, with how it stands to the baseline."""
    names = table.names
    every = [*names, *columns(table.lines, table.baselines, points=False)]
    rows = []
    for line in table.lines:
        base = table.baselines.get(line.family)
        tied = table.supported(line)
        state = "barred" if line.barred else "failed" if line.failure and not line.trials else "tied" if tied else ""
        cells = [" ".join(one.cell(line).split()) for one in every]
        if state == "failed":
            cells[len(names)] = "failed"
        first = base is not None and line.key == base.key
        rows.append({"cells": cells, "state": state, "first": first, "tied": tied and not first})
    return {"heads": [(one.title, one.figures) for one in every], "rows": rows, "names": len(names)}


def _winner(line: Line, results: Results) -> Iterable[dict[str, Any]]:
    """A row for each searched value of a winner."""
    if not winner(line) or line.search is None:
        return
    space = results.spaces.get(line.key, {})
    for number, (path, value) in enumerate(line.search.winner.items()):
        at_end = any(text.startswith(f"{path} ") for text in line.search.at_ends)
        yield {
            "name": line.key if number == 0 else "",
            "path": path,
            "value": told(value),
            "range": str(space[path]) if path in space else "",
            "at_end": at_end,
            "validation": f"{100 * line.search.validation:.2f}" if number == 0 else "",
            "points": line.search.points if number == 0 else "",
        }


def _spent(trials: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """A row for each phase: trials, how many failed, hours, and examples backward where they were counted."""
    rows = []
    for phase in PHASES_IN_WORDS:
        own = [trial for trial in trials if trial["phase"] == phase]
        if own:
            rows.append(_spent_by(phase, own))
    return [*rows, _spent_by("all", trials)] if len(rows) > 1 else rows


def _spent_by(phase: str, trials: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    counted = [trial["gradient_examples"] for trial in trials if trial["gradient_examples"] is not None]
    return {
        "phase": phase,
        "trials": f"{len(trials):,}",
        "failed": str(sum(trial["status"] == "failed" for trial in trials) or ""),
        "pruned": str(sum(trial["status"] == "pruned" for trial in trials) or ""),
        "wall": _duration(sum(trial["wall_seconds"] or 0.0 for trial in trials)),
        "cpu": _duration(sum(trial["cpu_seconds"] or 0.0 for trial in trials)),
        "examples": f"{sum(counted):,}" if len(counted) == len(trials) else "",
    }


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _seeds(trials: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The seeds of the trials of each phase."""
    found = []
    for phase in PHASES_IN_WORDS:
        specs = [json.loads(trial["spec"]) for trial in trials if trial["phase"] == phase]
        labels = dict.fromkeys(_seed(spec) for spec in sorted(specs, key=lambda spec: spec.get("seed") or 0))
        if labels:
            found.append((phase, ", ".join(labels)))
    return found


def _seed(spec: Mapping[str, Any]) -> str:
    own = spec.get("seeds")
    return str(spec["seed"]) if own is None else "/".join(str(value) for value in own.values())


def _failures(folder: ResultsFolder) -> list[dict[str, Any]]:
    return [
        {
            "names": ", ".join(failure.entries) or failure.spec.alias,
            "phase": failure.spec.phase,
            "seed": failure.spec.seed_label,
            "point": ", ".join(f"{path} {format_value(value)}" for path, value in failure.spec.point.items()),
            "reason": failure.reason,
            "trial": failure.spec.hash,
        }
        for failure in failures(folder)[:MOST_FAILURES]
    ]


def _facts(trials: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What the trials ran with: every value that there is."""
    found = []
    for column, name in FACTS.items():
        values = dict.fromkeys(str(trial[column]) for trial in trials if trial.get(column))
        if values:
            found.append((name, ", ".join(values)))
    return found


def _goes_on(sweep: SweepSpec, folder: ResultsFolder, complete: bool) -> dict[str, str]:
    place = shown(folder.uri)
    if isinstance(folder, Pack):
        return {"told": f"{sweep.name}: a pack is read alone; the sweep file above runs it anew.", "command": ""}
    if complete:
        told_so = "More seeds, points, methods and wider ranges in the file go on in the same folder:"
        return {"told": told_so, "command": f"raycl run {sweep.file} --results {place}"}
    return {"told": "It goes on where it stopped:", "command": f"raycl resume {place}"}
