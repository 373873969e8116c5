"""What ``raycl simulate`` prints: what searches over a table would have chosen, and how that would have scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raycl.errors import Problem, SpecError
from raycl.spec.source import parse
from raycl.sweep.simulate import simulate, summary


def printed(table: str, search: Mapping[str, Any], pruner: str | None, search_seeds: str | None) -> RenderableType:
    """Simulate, and report.

    Args:
        search: further arguments of :func:`raycl.sweep.simulate.simulate`.
        pruner, search_seeds: as they are typed.
    """
    labels = search_seeds.split(",") if search_seeds else ()
    return report(simulate(table, pruner=pruner_of(pruner), search_seeds=labels, **search))


FIGURES = ("validation", "test", "regret")


def pruner_of(text: str | None) -> dict[str, Any] | None:
    """A block ``pruner`` from ``quantile=.5,grace_tasks=2``.

    Raises:
        SpecError: a part is no NAME=VALUE.
    """
    if text is None:
        return None
    found = parse(f"pruner: {{{text.replace('=', ': ').replace(',', ', ')}}}", "--pruner").data["pruner"]
    if not all(part.count("=") == 1 for part in text.split(",")):
        raise SpecError([Problem("pruner", "must be NAME=VALUE,..., such as quantile=.5,grace_tasks=2", text)])
    return dict(found)


def report(chosen: pa.Table) -> RenderableType:
    """The means over all repeats, a line for each method.

    Args:
        chosen: of :func:`raycl.sweep.simulate.simulate`.
    """
    rows, first = summary(chosen).to_pylist(), chosen.slice(0, 1).to_pylist()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("strategy", no_wrap=True)
    for heading in (*(f"{name} %" for name in FIGURES), "task-trainings", "tied %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        figures = [_percent(row[name], row[f"{name}_half_width"]) for name in FIGURES]
        table.add_row(row["strategy"], *figures, f"{row['task_trainings']:.0f}", f"{100 * row['tied']:.0f}")
    notes = [
        f"Means over {row['repeats']} searches with 95 % t-intervals: over other searches of this table."
        for row in rows[:1]
    ]
    notes += [
        f"A search sees validation data of {len(row['search_seeds'])} of the table's seeds; test: what it chose, after "
        f"the whole stream, on the other {len(row['scored_seeds'])}; regret: what the best point of the table has more."
        for row in first
    ]
    notes += [f"{row['strategy']}: {', '.join(row['inert'])} cannot act so early" for row in rows if row["inert"]]
    notes += [f"{row['strategy']}: {row['unanswered']} searches chose nothing" for row in rows if row["unanswered"]]
    return Group(table, *(Text(note, style="dim") for note in notes))


def _percent(value: float | None, half: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2f}" + ("" if half is None else f" ± {100 * half:.2f}")
