"""A results folder goes on with a changed sweep file, as long as every trial that it holds stays what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from raycl.errors import RayclError, StoreError
from raycl.results.decisions import carry_suggestions, read_decisions, stamp_winner, suggestions_folder
from raycl.results.objectives import costs_of
from raycl.results.reading import read_trials
from raycl.results.store import ResultsFolder
from raycl.spec.distribution import format_value
from raycl.spec.entry import Entry
from raycl.spec.points import acts
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import SweepPhase, TrialSpec

MOST_TOLD = 5
"""Differing keys that one message names."""


def grow(results: ResultsFolder, sweep: SweepSpec) -> None:
    """Make a folder ready for a changed sweep: the winners that it holds say what they were chosen by.

    More seeds, trials, methods and variants, a wider range and another sampler leave the trials that exist what they
    are; what is not asked for any more stays where it is.

    Raises:
        StoreError: the new file would change what a trial of the folder is.
    """
    try:
        before = SweepSpec.loads(results.sweep_json, sweep.catalog)
    except RayclError as error:
        told = f"its own sweep file cannot be read by this raycl ({error}); choose another results folder"
        raise StoreError(f"results folder {results.files.name('')}: {told}") from error
    found = list(dict.fromkeys(difference for difference in differences(before, sweep, results)))
    if found:
        more = f"; and {len(found) - MOST_TOLD} more" if len(found) > MOST_TOLD else ""
        raise StoreError(
            f"results folder {results.files.name('')} belongs to sweep {before.name!r}, and its trials would not be "
            f"those of this file: {'; '.join(found[:MOST_TOLD])}{more}. More seeds, trials, methods and variants and "
            "wider ranges go on in a folder; for anything else choose another one"
        )
    for entry in before.entries:
        stamp_winner(results, before, entry)
    for entry in sweep.entries:
        former = next((one for one in before.entries if one.key == entry.key), None)
        if former is not None and not former.barred and not entry.barred:
            carry_suggestions(results, former, entry)


def differences(before: SweepSpec, after: SweepSpec, results: ResultsFolder) -> Iterator[str]:
    """What makes trials of a folder others, each with its key: ``ewc: training.epochs (1, before 2)``."""
    known = {entry.key: entry for entry in after.entries}
    if before.search and after.search and before.search.protocol != after.search.protocol:
        yield "search.protocol differs"
    if not known.keys() & {entry.key for entry in before.entries}:
        yield "it has none of their methods"
    if (before.table is None) != (after.table is None):
        yield "table (points of a design and suggestions of a search do not share a folder)"
    for name in _uncounted(after, results):
        yield f"search.metric ({name}, which nobody counted in trials of this folder)"
    decided = read_decisions(results, before.entries)
    for entry in before.entries:
        now = known.get(entry.key)
        if now is None or now.barred or entry.barred:
            continue
        points = [suggestion["point"] for path, suggestion in decided.items() if _of(entry, path)]
        yield from _outside(now, entry, points)
        if now.space.keys() != entry.space.keys():
            continue
        for point in (points or [entry.middle])[:1]:
            if not any(_outside(now, entry, [point])):
                yield from (f"{entry.key}: {told}" for told in _changed(before, entry, after, now, point))


def _uncounted(sweep: SweepSpec, results: ResultsFolder) -> list[str]:
    """Objectives of a sweep of which some trial that could be chosen tells nothing: an earlier raycl ran it."""
    asked = sweep.search.costs if sweep.search else ()
    rows = read_trials(results).to_pylist() if asked else []
    known = [costs_of(row) for row in rows if row["status"] == "finished" and row["scored_on"] == "validation"]
    return [name for name in asked if any(name not in costs for costs in known)]


def _of(entry: Entry, path: str) -> bool:
    return path.startswith(f"{suggestions_folder(entry)}/")


def _outside(now: Entry, entry: Entry, points: list[Mapping[str, Any]]) -> Iterator[str]:
    """Dimensions that came or went, and points that were tried and are none any more: a value out of its range, or one
    that is searched beside other values now."""
    if not points and not entry.space and not now.space:
        return
    for path in entry.space.keys() - now.space.keys():
        yield f"{entry.key}: {path} (was searched)"
    for path in now.space.keys() - entry.space.keys():
        yield f"{entry.key}: {path} (was not searched)"
    for path in now.space.keys() & entry.space.keys():
        tried = [point[path] for point in points if path in point and not now.space[path].contains(point[path])]
        if tried:
            yield f"{entry.key}: {path} ({now.space[path]}, but {format_value(tried[0])} was tried)"
        for point in points:
            if acts(now.space[path], point) != (path in point):
                beside = "was tried" if path in point else "was not searched"
                yield f"{entry.key}: {path} ({now.space[path]}, but it {beside} at {format_value(point)})"
                break


def _changed(before: SweepSpec, entry: Entry, after: SweepSpec, now: Entry, point: Mapping[str, Any]) -> Iterator[str]:
    """The keys in which the trials of an entry at a point differ."""
    phases: list[SweepPhase] = ["search"] if before.search and after.search and entry.space else []
    phases += ["final"] if before.final and after.final else []
    phases += ["table"] if before.table and after.table else []
    for phase in phases:
        was, is_now = before.trial(entry, point, 0, phase), after.trial(now, point, 0, phase)
        if was.hash != is_now.hash:
            yield from _differing(_flat(was), _flat(is_now))


def _differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Each key with its values; revisions follow from keys, and are told where they alone differ."""
    paths = [path for path in sorted(was.keys() | now.keys()) if was.get(path) != now.get(path)]
    keys = [path for path in paths if not path.startswith("revisions")]
    for path in keys or paths:
        yield f"{path} ({_shown(now.get(path))}, before {_shown(was.get(path))})"


def _shown(value: Any) -> str:
    return "not set" if value is None else format_value(value)


def _flat(spec: TrialSpec) -> dict[str, Any]:
    """What decides a trial, by dotted path; a method's own options without a prefix."""
    data = json.loads(spec.dumps())
    for name in ("alias", "variant", "point", "phase", "before", "keep_checkpoint", "evaluation", "score_on"):
        data.pop(name, None)
    data["resources"] = {"cpus": spec.resources.cpus}
    data |= {"evaluation": spec.evaluation.decisive(), **data.pop("options")}
    return dict(_paths(data, ""))


def _paths(data: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _paths(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, data
