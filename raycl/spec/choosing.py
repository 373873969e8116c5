"""Trials that choose as they go, as a sweep asks for them, and what they choose among.

Under such a protocol an entry has no search phase: each final seed is one trial, whose specification holds the protocol
and all that it chooses among.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raycl.spec.acting import plastic, stability
from raycl.spec.entry import Entry
from raycl.spec.protocols import RATE, Choosing
from raycl.spec.seeds import RunSeeds
from raycl.spec.space import Choice
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import Scalar, TrialSpec


def chooses(sweep: SweepSpec, entry: Entry) -> bool:
    """Whether the final trials of an entry choose as they go; one with nothing to choose among is a plain trial."""
    rule = sweep.as_it_goes
    if rule is None or entry.barred:
        return False
    decays = rule.stability_decay is not None and bool(stability(sweep.resolved(entry, entry.middle)))
    return bool(entry.space) or decays


def drawn(sweep: SweepSpec, entry: Entry) -> int:
    """How many candidates are drawn at random; none where what is chosen among stands in the file."""
    rule = sweep.as_it_goes
    if rule is None or rule.stability_decay is not None or sweep.search is None or not entry.space:
        return 0
    return sweep.suggestions(entry)


def grid(entry: Entry) -> list[Mapping[str, Scalar]]:
    """The learning rates of ``stability_decay``, in order; one point where the file gives one."""
    rates = entry.space.get(RATE)
    return [{RATE: rate} for rate in rates.choices] if isinstance(rates, Choice) else [{}]


def choosing_trial(
    sweep: SweepSpec, entry: Entry, points: Sequence[Mapping[str, Scalar]], seed: int | RunSeeds
) -> TrialSpec:
    """The final trial of a seed; equal candidates stand once.

    Args:
        points: candidates, in the order in which ties are broken.
    """
    rule = sweep.as_it_goes
    assert rule is not None
    specs = [sweep.trial(entry, point, seed, "final") for point in points]
    candidates: list[dict[str, Any]] = []
    for spec in specs:
        values = {path: spec.value(path) for path in entry.space}
        if values not in candidates:
            candidates.append(values)
    setting = sweep.resolved(entry, points[0])
    decays = (stability(setting) or ()) if rule.stability_decay is not None else ()
    free = dict(plastic(setting) or {}) if decays else {}
    asked = Choosing(protocol=rule, candidates=tuple(candidates), decays=decays, plastic=free)
    return specs[0].model_copy(update={"choosing": asked, "point": {}})


def trainings(sweep: SweepSpec, entry: Entry, num_tasks: int) -> tuple[int, int]:
    """Trainings of a task that each final trial of an entry makes, at least and at most."""
    if not chooses(sweep, entry):
        return num_tasks, num_tasks
    count = drawn(sweep, entry)
    asked = choosing_trial(sweep, entry, [entry.middle] if count else grid(entry), 0).choosing
    assert asked is not None
    low, high = asked.trainings(num_tasks)
    return (low + (count - 1) * num_tasks, high + (count - 1) * num_tasks) if count else (low, high)
