"""How the entries of a pack stand: told by its trials alone, as their names may be those of an earlier raycl."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from raycl.results.outcomes import Recall, score
from raycl.results.packed import asking
from raycl.results.standing import Asked, Standing, outcome_of
from raycl.spec.choosing import chooses
from raycl.spec.sweep import Entry, SweepSpec
from raycl.spec.trial import SweepPhase, TrialSpec

_Points = Mapping[str, tuple[Asked, ...]]
"""The trials of each point, by the point as JSON."""


def packed_standings(sweep: SweepSpec, trials: Sequence[Mapping[str, Any]], recall: Recall) -> list[Standing]:
    """Every entry of which a pack has trials, in file order. What is not there was not packed: nothing is left to run.

    Args:
        trials: rows of the trials table.
        recall: what is known of an ended trial.
    """
    found = []
    for entry in sweep.entries:
        own = [TrialSpec.loads(trial["spec"]) for trial in trials if entry.key in asking(trial, sweep)]
        if own or entry.barred:
            found.append(_standing(sweep, entry, own, recall) if own else Standing(entry, ended=True))
    return found


def _standing(sweep: SweepSpec, entry: Entry, specs: Sequence[TrialSpec], recall: Recall) -> Standing:
    phases = {phase: _points([one for one in specs if one.phase == phase], recall) for phase in ("search", "finalists")}
    final, table = (_points([one for one in specs if one.phase == phase], recall) for phase in ("final", "table"))
    suggested = tuple(phases["search"].values())
    outcomes = tuple(map(outcome_of, suggested))
    places = {name: place for place, name in enumerate(phases["search"])}
    again = {places[name]: trials for name, trials in phases["finalists"].items() if name in places}
    winner = _winner(sweep, entry, final, {name: _validated(name, places, suggested, again) for name in final})
    scored = final.get(winner, ())
    planned: dict[SweepPhase, int] = {"final": len(scored), "search": sum(map(len, suggested))}
    planned |= {"table": sum(map(len, table.values()))} if table else {}
    several = final if sweep.search is not None and sweep.search.costs else {}
    return Standing(
        entry,
        suggested,
        outcomes,
        again,
        {"point": json.loads(winner)} if final else None,
        scored,
        planned,
        ended=True,
        pareto={places.get(name, -1 - place): trials for place, (name, trials) in enumerate(several.items())},
        table=tuple(table.values()),
    )


def _points(specs: Sequence[TrialSpec], recall: Recall) -> _Points:
    found: dict[str, list[Asked]] = {}
    for spec in sorted(specs, key=lambda spec: spec.run_seeds.values):
        found.setdefault(json.dumps(dict(spec.point), sort_keys=True), []).append(Asked.of(spec, recall))
    return {name: tuple(asked) for name, asked in found.items()}


def _validated(
    name: str, places: Mapping[str, int], suggested: Sequence[Sequence[Asked]], again: Mapping[int, Sequence[Asked]]
) -> float:
    """What a point came to on validation data; below everything where that was not packed."""
    place = places.get(name)
    trials = () if place is None else (*suggested[place], *again.get(place, ()))
    found = score([asked.verdict for asked in trials])
    return -1.0 if found is None else found


def _winner(sweep: SweepSpec, entry: Entry, final: _Points, validated: Mapping[str, float]) -> str:
    """The point, as JSON, whose final trials count: a folder that went on may hold those of former winners too."""
    if chooses(sweep, entry):  # the trials themselves have chosen, and stand under one point
        return next(iter(final), "{}")
    return max(final, key=lambda name: (len(final[name]), validated[name]), default="{}")
