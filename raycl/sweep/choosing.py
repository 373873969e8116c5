"""Final trials that choose as they go: their candidates are drawn and written down once, the same for all seeds."""

from __future__ import annotations

from collections.abc import Mapping

from raycl.spec.choosing import choosing_trial, drawn, grid
from raycl.spec.entry import Entry
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import Scalar, TrialSpec
from raycl.sweep.ledger import Ledger
from raycl.sweep.search import blind_suggestions
from raycl.sweep.suggestions import Suggester


def choosing_trials(sweep: SweepSpec, entry: Entry, ledger: Ledger) -> list[TrialSpec]:
    """One trial for each final seed, of which each chooses for itself among the same candidates."""
    assert sweep.final is not None
    points = candidates(sweep, entry, ledger)
    return [choosing_trial(sweep, entry, points, seed) for seed in sweep.final.runs]


def candidates(sweep: SweepSpec, entry: Entry, ledger: Ledger) -> list[Mapping[str, Scalar]]:
    """What the trials choose among, in order: drawn before any has run and written down, or a grid of the file."""
    count = drawn(sweep, entry)
    if not count or sweep.search is None:
        return grid(entry)
    suggester = Suggester(entry.space, sweep.search, entry.key, tuple(sweep.first_points(entry)))
    return [stored["point"] for stored in blind_suggestions(suggester, entry, ledger, count)]
