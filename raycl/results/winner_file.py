"""A sweep file with the winner of a method in place of its search: it asks for the final trials, and no others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from raycl.catalog import catalog
from raycl.errors import StoreError
from raycl.results.comparison import standings_of
from raycl.results.decisions import pareto
from raycl.results.reading import Folder, opened
from raycl.results.standing import Standing
from raycl.results.store import ResultsFolder
from raycl.spec.blocks import SHARED_OPTIONS
from raycl.spec.choosing import chooses
from raycl.spec.points import Point
from raycl.spec.source import Path, dotted, parse
from raycl.spec.sweep import Entry, SweepSpec

log = logging.getLogger(__name__)


def winner_file(folder: Folder, strategy: str) -> str:
    """The text of a sweep file whose trials are the final ones of a method's winner, or of each of its Pareto set.

    Args:
        strategy: a method of the sweep, by its name there; ``variant/name`` where several variants have it.

    Raises:
        UnknownName: the sweep runs no such method.
        StoreError: it has no winner, or none that a file without a search can name.
    """
    results = opened(folder)
    sweep = SweepSpec.loads(results.sweep_json, catalog())
    entry = _entry(sweep, strategy, results)
    standing = _standing(sweep, entry, results)
    points = _points(standing)
    text = _head(results, sweep, standing) + _dumped(_data(sweep, entry, points))
    _check(text, sweep, entry, points, results)
    return text


def _entry(sweep: SweepSpec, strategy: str, results: ResultsFolder) -> Entry:
    """The one entry that is meant, which must be one that a search chooses for once."""
    entry, name = sweep.find(strategy), results.files.name("")
    named = [one.key for one in sweep.entries if one.alias == strategy and not one.barred]
    if entry.key != strategy and len(named) > 1:
        raise StoreError(
            f"{name}: {strategy} has a winner in each variant, and a file holds one; name {' or '.join(named)}"
        )
    if sweep.table is not None:
        raise StoreError(f"{name}: a table selects nothing, so {entry.key} has no winner; `raycl simulate` searches it")
    if chooses(sweep, entry):
        raise StoreError(
            f"{name}: {entry.key} chooses anew for every task (search.protocol), so no one point has won; the table "
            "data/choices of the folder holds what was chosen"
        )
    if sweep.search is not None and sweep.search.judged is not None and sweep.search.judged.disjoint:
        raise StoreError(
            f"{name}: the final trials leave out the tasks that chose their point (search.protocol: disjoint), which a "
            "file without a search cannot say; `raycl show` names the point"
        )
    return entry


def _standing(sweep: SweepSpec, entry: Entry, results: ResultsFolder) -> Standing:
    """How the entry stands, which has a winner."""
    found = next((one for one in standings_of(sweep, results) if one.entry.key == entry.key), None)
    if found is not None and found.winner is not None:
        return found
    if found is not None and found.failure:
        raise StoreError(
            f"{results.files.name('')}: {entry.key} has no winner: {found.failure}; change its search, and continue in "
            "the same folder"
        )
    raise StoreError(f"{results.files.name('')}: {entry.key} has no winner yet; `raycl resume` goes on with the search")


def _points(standing: Standing) -> list[Point]:
    """The winner's point, and the others of its Pareto set."""
    assert standing.winner is not None
    told: list[Point] = [own["point"] for own in pareto(standing.winner)]
    told += [trials[0].spec.point for trials in standing.pareto.values() if trials]
    distinct = {tuple(sorted(point.items())): point for point in told}
    return list(distinct.values())


def _data(sweep: SweepSpec, entry: Entry, points: Sequence[Point]) -> dict[str, Any]:
    """The file: blocks as the entry has them, what was searched under the name of the method, and no search."""
    blocks = sweep.blocks[entry.key]
    shared = blocks.without(blocks.space).data
    given = parse(sweep.text, sweep.file).data
    final = {key: value for key, value in given.get("final", {}).items() if key != "baseline"}
    names = [entry.alias] if len(points) == 1 else [f"{entry.alias}_{number}" for number in range(1, len(points) + 1)]
    return {
        "name": "_".join(filter(None, (sweep.name, entry.variant, entry.alias))),
        **{name: shared[name] for name in SHARED_OPTIONS if shared.get(name)},
        "strategies": {name: _own(sweep, entry, name, point) for name, point in zip(names, points, strict=True)},
        "final": final,
        **({"resources": given["resources"]} if "resources" in given else {}),
    }


def _own(sweep: SweepSpec, entry: Entry, name: str, point: Point) -> dict[str, Any]:
    """The method's own block at a point; what a list holds is given with all of the list."""
    blocks = sweep.blocks[entry.key]
    fixed = blocks.fixed(sweep.values(entry, point))
    own = {} if name == entry.strategy else {"strategy": entry.strategy}
    own |= fixed["options"]
    for path in (path for path in blocks.space if path[0] != "options"):
        inside = next((place for place, part in enumerate(path) if isinstance(part, int)), len(path))
        found = _at(fixed, path[:inside])
        if found is not None:
            own[dotted(path[:inside])] = found
    return own


def _at(data: Any, path: Path) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _head(results: ResultsFolder, sweep: SweepSpec, standing: Standing) -> str:
    """The comment at the top: where the point comes from, and what chose it."""
    assert standing.winner is not None
    value = standing.winner.get("value")
    judged = f", {sweep.metric} {value:.4f} on validation data" if isinstance(value, float) else ""
    chosen = "with nothing to search" if not standing.entry.space else f"as its search has chosen{judged}"
    return f"# {standing.entry.key} of {sweep.name}, {chosen}: the final trials of {results.files.name('')} anew.\n\n"


def _dumped(data: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(data), sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)


def _check(text: str, sweep: SweepSpec, entry: Entry, points: Sequence[Point], results: ResultsFolder) -> None:
    """The file must ask for the very trials that the sweep asks for, by their names.

    Raises:
        StoreError: it does not.
    """
    fixed = SweepSpec.parse(text, sweep.catalog, "the written file").pinned(sweep.pins)
    assert fixed.final is not None
    asked = {fixed.trial(one, {}, run, "final").hash for one in fixed.entries for run in fixed.final.runs}
    wanted = {sweep.trial(entry, point, run, "final").hash for point in points for run in fixed.final.runs}
    if asked != wanted:
        raise StoreError(
            f"{results.files.name('')}: a file with the winner of {entry.key} alone would ask for other trials than "
            "the sweep does; copy its sweep.yaml, and write the point in by hand"
        )
    if wanted.isdisjoint(results.ended()):
        log.warning("%s: none of these trials has ended there as this raycl names them", results.files.name(""))
