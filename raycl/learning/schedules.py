"""The learning rate's factor at each update of a phase: torch's schedules in closed form.

Torch's schedulers multiply the rate that is there, step by step, and want an optimiser of torch's own. These are the
same values, of an update alone, so that nothing has to be kept or restored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raycl.spec.schedule import Cosine, Multistep, OneCycle, Plateau, Schedule, Steps

REACHED = 1e-9
"""A share of the updates is reached where it is but for rounding."""


@dataclass(frozen=True)
class Whereabouts:
    """Where in a phase an update stands.

    Attributes:
        update: counted from 0.
        updates: of the whole phase; infinite where a budget ends it.
        fraction: share of the phase that is done.
    """

    update: int
    updates: float
    fraction: float

    @property
    def counted(self) -> bool:
        """Whether it is known how many updates there will be."""
        return math.isfinite(self.updates)


def rate(schedule: Schedule | None, warm_up: float, at: Whereabouts) -> float:
    """The factor on the learning rate; of :class:`raycl.spec.schedule.Plateau` without its drops.

    Args:
        warm_up: share of the updates in which the factor rises evenly to 1: over n updates by 1/n each, or from 0 where
            their number is not known. The schedule takes what is left.
    """
    if warm_up and at.counted:
        rising = round(warm_up * at.updates)
        if at.update < rising:
            return (at.update + 1) / rising
        update, updates = at.update - rising, at.updates - rising
        at = Whereabouts(update, updates, update / updates)
    elif warm_up:
        if at.fraction < warm_up:
            return at.fraction / warm_up
        at = Whereabouts(at.update, at.updates, (at.fraction - warm_up) / (1 - warm_up))
    if schedule is None or isinstance(schedule, Plateau):
        return 1.0
    if isinstance(schedule, OneCycle):
        return _one_cycle(schedule, at)
    if isinstance(schedule, Cosine):
        return _between(1.0, schedule.floor, at.fraction)
    return math.prod(_dropped(schedule, at.fraction))


def _dropped(schedule: Steps | Multistep, done: float) -> Sequence[float]:
    """The factors of the drops so far."""
    if isinstance(schedule, Steps):
        return [schedule.factor] * math.floor(done / schedule.every + REACHED)
    drops = sum(drop <= done + REACHED for drop in schedule.at)
    return schedule.factor[:drops] if isinstance(schedule.factor, tuple) else [schedule.factor] * drops


def _one_cycle(schedule: OneCycle, at: Whereabouts) -> float:
    """Up to the peak, and down to the last update; torch counts both ends among a phase's steps."""
    if at.counted:
        now, peak, last = float(at.update), schedule.peak_at * at.updates - 1, at.updates - 1
    else:
        now, peak, last = at.fraction, schedule.peak_at, 1.0
    if now <= peak:
        return _between(schedule.start, 1.0, now / peak if peak > 0 else 1.0)
    return _between(1.0, schedule.end, (now - peak) / (last - peak) if last > peak else 1.0)


def _between(first: float, last: float, share: float) -> float:
    """Along half a cosine from the one to the other."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


class PlateauDrops:
    """The factor of a plateau schedule, pass by pass.

    Attributes:
        factor: at present.
    """

    def __init__(self, schedule: Plateau) -> None:
        self._schedule = schedule
        self._best: float | None = None
        self._worse = self._cooling = 0
        self.factor = 1.0

    def passed(self, value: float) -> None:
        """A pass over the data has ended with this value: a loss, or an accuracy, which is to be high."""
        rule = self._schedule
        if self._better(value):
            self._best, self._worse = value, 0
        else:
            self._worse += 1
        if self._cooling:
            self._cooling -= 1
            self._worse = 0
        if self._worse > rule.patience:
            self.factor = max(self.factor * rule.factor, rule.floor)
            self._cooling, self._worse = rule.cooldown, 0

    def _better(self, value: float) -> bool:
        if self._best is None:
            return True
        if self._schedule.watch == "loss":
            return value < self._best * (1 - self._schedule.threshold)
        return value > self._best * (1 + self._schedule.threshold)
