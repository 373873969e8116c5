"""In what two results folders differ: what was asked, what ran it and where, and then in what figures."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raycl.matrix import METRICS
from raycl.results.comparison import Line, compared
from raycl.results.questions import differences
from raycl.results.reading import Folder, opened
from raycl.results.statistics import LEVEL, Difference, Interval, holm
from raycl.results.store import ResultsFolder
from raycl.spec.distribution import DistributionError, format_value
from raycl.spec.seeds import RunSeeds
from raycl.spec.source import parse
from raycl.spec.space import find

MADE_BY = ("raycl", "commit", "torch")
MACHINES = ("cpu_capability", "threads")
NOT_THERE = "-"


@dataclass(frozen=True)
class Changed:
    """Something that is not the same in both, in words; ``-`` where one of them does not have it."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class Figures:
    """One method that both have scored on test data.

    Attributes:
        first, second: its means with their intervals.
        difference: the second less the first; None where the two answer different questions.
        paired: over the seeds that both have; else over all, as of independent runs.
        p: two-sided, corrected for all methods of the two; NaN where it is not defined.
        equal: every figure of every seed is the same, to the last bit.
        better: whether the second is; None where the two are not told apart.
    """

    key: str
    first: Interval
    second: Interval
    difference: Interval | None = None
    paired: bool = False
    p: float = math.nan
    equal: bool = False
    better: bool | None = None


@dataclass(frozen=True)
class Contrast:
    """Two folders beside each other.

    Attributes:
        settings, code, data, machines: what is not the same; None where neither tells of it.
        asked_otherwise: in what streams or metrics differ, so that figures are not compared.
        alone: keys of methods that only the first, and only the second, has scored.
        common, moved: trials of equal names that have finished in both, and how many of them have other figures.
    """

    names: tuple[str, str]
    metric: str
    settings: tuple[Changed, ...] | None
    code: tuple[Changed, ...] | None
    data: tuple[Changed, ...] | None
    machines: tuple[Changed, ...] | None
    asked_otherwise: tuple[str, ...]
    figures: tuple[Figures, ...]
    alone: tuple[tuple[str, ...], tuple[str, ...]]
    common: int
    moved: int


def contrast(first: Folder, second: Folder, metric: str = "average_accuracy") -> Contrast:
    """What two results folders, or packs, do not have in common.

    Raises:
        StoreError: one of them is neither, or a part of it is damaged.
        SpecError: the sweep file of one is none any more.
    """
    found = opened(first), opened(second)
    a, b = (compared(one, metric) for one in found)
    rows = a.trials, b.trials
    apart = tuple(differences([a.question, b.question]))
    lines = tuple({line.key: line for line in each.lines if line.interval is not None} for each in (a, b))
    common = [name for name, row in rows[0].items() if _finished(row) and _finished(rows[1].get(name, {}))]
    return Contrast(
        (found[0].files.name(""), found[1].files.name("")),
        metric,
        _changes(_settings(found[0]), _settings(found[1])),
        _changes(_code(rows[0].values()), _code(rows[1].values())),
        _changes(_data(rows[0].values()), _data(rows[1].values()), only_common=True),
        _changes(_told(rows[0].values(), MACHINES), _told(rows[1].values(), MACHINES)),
        apart,
        _figures(lines[0], lines[1], bool(apart)),
        (tuple(sorted(lines[0].keys() - lines[1].keys())), tuple(sorted(lines[1].keys() - lines[0].keys()))),
        len(common),
        sum(any(rows[0][name].get(each) != rows[1][name].get(each) for each in METRICS) for name in common),
    )


def _finished(row: Mapping[str, Any]) -> bool:
    return row.get("status") == "finished"


def _changes(
    first: Mapping[str, str], second: Mapping[str, str], only_common: bool = False
) -> tuple[Changed, ...] | None:
    """What is not the same in both; None where neither tells anything."""
    names = [
        name for name in dict.fromkeys((*first, *second)) if not only_common or {name} <= first.keys() & second.keys()
    ]
    found = [Changed(name, first.get(name, NOT_THERE), second.get(name, NOT_THERE)) for name in names]
    return tuple(one for one in found if one.first != one.second) if first or second else None


# -- what is told of each ------------------------------------------------------------------------------------------


def _settings(results: ResultsFolder) -> dict[str, str]:
    """The keys of its sweep file, by dotted path; distributions are values."""
    told = json.loads(results.sweep_json)
    data = parse(told["text"], told.get("file") or results.name).data if "text" in told else {}
    return dict(_flat("", data))


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        try:
            found = find(value)
        except DistributionError:
            found = None
        if found is None:
            for key, inner in value.items():
                yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
            return
        yield prefix, str(found)
    else:
        yield prefix, value if isinstance(value, str) else format_value(value)


def _told(rows: Iterable[Mapping[str, Any]], columns: Collection[str]) -> dict[str, str]:
    """The different values of some columns, those of all trials in one."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name in columns:
            if row.get(name) is not None:
                found.setdefault(name, {})[str(row[name])] = None
    return {name: ", ".join(sorted(values)) for name, values in found.items()}


def _code(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Versions, and the fingerprints of what ran: of the loop, and of each method with its model and stream."""
    rows = list(rows)
    found: dict[str, set[str]] = {}
    for row in rows:
        for part, _, mark in (each.partition(":") for each in (row.get("code") or "").split()):
            name = f"{part} {row['strategy']}" if part in ("strategy", "bases") else part
            found.setdefault(f"code of the {name}", set()).add(mark)
    return _told(rows, MADE_BY) | {name: ", ".join(sorted(marks)) for name, marks in sorted(found.items())}


def _data(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Fingerprints of the data's content and of the split of each seed."""
    rows = list(rows)
    splits = {
        f"split of {row['variant'] + ', ' if row['variant'] else ''}seed {row['seed']}": row["split_hash"]
        for row in rows
        if row["split_hash"] and row["seed"] is not None and row["phase"] == "final"
    }
    return {name.replace("data", "content of the data"): told for name, told in _told(rows, ["data"]).items()} | dict(
        sorted(splits.items())
    )


# -- figures -------------------------------------------------------------------------------------------------------


def _figures(first: Mapping[str, Line], second: Mapping[str, Line], apart: bool) -> tuple[Figures, ...]:
    """Of the methods that both have; p is corrected for all that could be compared."""
    keys = [key for key in first if key in second]
    pairs = {key: (first[key], second[key]) for key in keys}
    found = {key: None if apart else _difference(a.by_seed, b.by_seed) for key, (a, b) in pairs.items()}
    corrected = dict(zip(keys, holm([one[0].p if (one := found[key]) else math.nan for key in keys]), strict=True))
    return tuple(_of_one(key, *pairs[key], found[key], corrected[key]) for key in keys)


def _difference(first: Mapping[RunSeeds, float], second: Mapping[RunSeeds, float]) -> tuple[Difference, bool] | None:
    """The second less the first, and whether it is paired: where all but one seed at most would be lost, it is not."""
    paired = Difference.of(second, first)
    if paired is not None and (paired.interval.n > 1 or first.keys() == second.keys()):
        return paired, True
    independent = Difference.unpaired(list(second.values()), list(first.values()))
    return None if independent is None else (independent, False)


def _of_one(key: str, a: Line, b: Line, found: tuple[Difference, bool] | None, p: float) -> Figures:
    assert a.interval is not None
    assert b.interval is not None
    if found is None:
        return Figures(key, a.interval, b.interval)
    difference = found[0].interval
    better = a.sign * difference.mean > 0 if p < 1 - LEVEL else None
    return Figures(key, a.interval, b.interval, difference, found[1], p, dict(a.by_seed) == dict(b.by_seed), better)
