"""One table of several results folders, and of some of its lines in another order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from raycl.errors import UnknownName, nearest
from raycl.results.comparison import LESS_IS_BETTER, Line, rank
from raycl.results.questions import differences
from raycl.results.reading import Folder, opened
from raycl.results.scored import merged
from raycl.results.tables import Comparison, comparison

SORTS: Mapping[str, Callable[[Line], float | None]] = {
    "validation": lambda line: -line.search.validation if line.search else None,
    "seconds": lambda line: line.seconds.mean if line.seconds else None,
    "memory": lambda line: line.memory.mean if line.memory else None,
    "parameters": lambda line: line.parameters.mean if line.parameters else None,
}
"""What lines may be sorted by beside metrics: the value, the first one first."""


def joined(tables: Mapping[str, Comparison]) -> Comparison:
    """Several comparisons as one. Where all sweeps ask the same (streams, data, metric) their methods are compared with
    one another; where they differ, the table says in what, and each is compared within itself.

    Args:
        tables: by the name that their lines go by.
    """
    if len(tables) == 1:
        return next(iter(tables.values()))
    differ = tuple(differences(table.question for table in tables.values()))
    found = [replace(line, place=label, alone=bool(differ)) for label, table in tables.items() for line in table.lines]
    if not differ:
        variants = list(dict.fromkeys(line.variant for line in found))
        found.sort(key=lambda line: (variants.index(line.variant), *rank(line)))
    named = {table.named for table in tables.values()}
    return Comparison(
        ", ".join(tables),
        found,
        sum(table.begun for table in tables.values()),
        "; ".join(f"{label}: {table.refused}" for label, table in tables.items() if table.refused),
        named.pop() if len(named) == 1 else None,
        merged(table.splits for table in tables.values()),
        differ=differ,
    )


def compared_folders(
    folders: Sequence[Folder], baseline: str | None = None, metric: str = "average_accuracy"
) -> Comparison:
    """The comparison of one folder or pack, or of several in one table.

    Args:
        baseline: the method that others are compared with; default: what the sweep file says.
        metric: what they are compared by, as the trials table names it.

    Raises:
        StoreError: one of them is neither, or a part of it is damaged.
        UnknownName: the baseline is no method of the sweeps, or the metric is of none of their trials.
    """
    tables = [comparison(folder, metric=metric) for folder in folders]
    names = [table.sweep for table in tables]
    labels = [
        name if names.count(name) == 1 else opened(at).files.name("") for at, name in zip(folders, names, strict=True)
    ]
    table = joined(dict(zip(labels, tables, strict=True)))
    if metric not in {name for line in table.lines for name in line.metrics} and any(
        line.trials for line in table.lines
    ):
        known = dict.fromkeys(name for table in tables for name in table.metrics)
        raise UnknownName(
            f"a metric must be one that the trials were measured by (got {metric!r}){nearest(metric, known)} "
            f"(known: {', '.join(known)})"
        )
    return table.against(baseline)


def chosen(table: Comparison, strategies: Sequence[str] = (), sort: str | None = None) -> Comparison:
    """The table with some of its lines, or with its lines in another order; what is left out still counts as compared.

    Args:
        strategies: aliases, keys or registered names; empty: all.
        sort: ``rank``, ``name``, a metric of the table, or one of :data:`SORTS`; what lacks it stands last. Default:
            by rank, as the table is.

    Raises:
        UnknownName: the table has no such method, or nothing of this name to sort by.
    """
    known = dict.fromkeys(name for line in table.lines for name in _names(line))
    for name in strategies:
        if name not in known:
            told = f"{nearest(name, known)} (known: {', '.join(known)})"
            raise UnknownName(f"a strategy must be a method of the table (got {name!r}){told}")
    lines = [line for line in table.lines if not strategies or set(strategies).intersection(_names(line))]
    if sort not in (None, "rank"):
        lines = _in_order(lines, sort)
    return replace(table, chosen=tuple(line.key for line in lines))


def _names(line: Line) -> tuple[str, ...]:
    return line.alias, line.key, line.name, line.strategy


def _in_order(lines: Sequence[Line], sort: str) -> list[Line]:
    if sort == "name":
        return sorted(lines, key=lambda line: (line.alias, line.key))
    metrics = dict.fromkeys(name for line in lines for name in line.metrics)
    if sort not in SORTS and sort not in metrics:
        known = ("rank", "name", *metrics, *SORTS)
        raise UnknownName(
            f"lines are sorted by a figure of theirs (got {sort!r}){nearest(sort, known)} (known: {', '.join(known)})"
        )

    def value(line: Line) -> float:
        if sort in SORTS:
            found = SORTS[sort](line)
            return math.inf if found is None else found
        spread = line.metrics.get(sort)
        return math.inf if spread is None else spread.mean if sort in LESS_IS_BETTER else -spread.mean

    return sorted(lines, key=value)
