"""What figures over a few seeds support: intervals, paired differences, and corrections for how many are looked at."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

LEVEL = 0.95
"""Of every interval; what is told apart has a corrected p below ``1 - LEVEL``."""
EQUAL = 1e-9
"""Values that differ by less than this share of the largest are equal: they differ by what sums round off."""

K = TypeVar("K", bound=Hashable)


def half_width(std: float, n: int) -> float:
    """How far the interval of a mean by Student's t goes to either side; NaN where ``n`` is below 2.

    Args:
        std: sample standard deviation (n - 1) of the values.
        n: how many values the mean is of.
    """
    return float(stdtrit(n - 1, (1 + LEVEL) / 2)) * std / math.sqrt(n) if n > 1 else math.nan


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1); NaN of one value, and of values that are all equal, which tell nothing of how
    far others would lie."""
    if len(values) < 2 or max(values) - min(values) <= EQUAL * max(map(abs, values)):
        return math.nan
    return statistics.stdev(values)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) over seeds; the deviation of one value is NaN."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Over the defined values; None where there are none."""
        known = [value for value in values if value is not None and math.isfinite(value)]
        if not known:
            return None
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else math.nan, len(known))


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, and how far its interval by Student's t goes to either side.

    Attributes:
        margin: NaN where it is not defined: of one value, or of values that are all equal.
    """

    mean: float
    margin: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Interval | None:
        """Of the values; None where there are none."""
        known = list(values)
        if not known:
            return None
        return cls(statistics.fmean(known), half_width(deviation(known), len(known)), len(known))


@dataclass(frozen=True)
class Difference:
    """One method less another: over the seeds that both have a paired comparison by Student's t.

    Attributes:
        p: two-sided, of this comparison alone; NaN where it is not defined, as the interval.
    """

    interval: Interval
    p: float

    @classmethod
    def of(cls, values: Mapping[K, float], others: Mapping[K, float]) -> Difference | None:
        """Of two methods' figures by seed; None where they share no seed."""
        differences = [values[seed] - others[seed] for seed in values if seed in others]
        interval = Interval.of(differences)
        if interval is None:
            return None
        error = deviation(differences) / math.sqrt(interval.n)
        p = math.nan if math.isnan(error) else 2 * float(stdtr(interval.n - 1, -abs(interval.mean) / error))
        return cls(interval, p)

    @classmethod
    def unpaired(cls, values: Sequence[float], others: Sequence[float]) -> Difference | None:
        """Of two methods' figures over seeds that have nothing to do with each other (Welch's t); None without any."""
        if not values or not others:
            return None
        mean, n = statistics.fmean(values) - statistics.fmean(others), min(len(values), len(others))
        squares = [deviation(own) ** 2 / len(own) for own in (values, others)]
        error = math.sqrt(math.fsum(squares))
        if math.isnan(error):
            return cls(Interval(mean, math.nan, n), math.nan)
        freedom = error**4 / sum(s**2 / (len(own) - 1) for s, own in zip(squares, (values, others), strict=True))
        margin = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
        return cls(Interval(mean, margin, n), 2 * float(stdtr(freedom, -abs(mean) / error)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of a family corrected for their number, in the order given (Holm 1979).

    To reject those below 0.05 errs anywhere in the family in at most 5 % of families, however its members depend on one
    another. A p that is not defined rejects nothing, and counts as a member.
    """
    corrected, largest = [math.nan] * len(p_values), 0.0
    defined = [index for index, p in enumerate(p_values) if not math.isnan(p)]
    for rank, index in enumerate(sorted(defined, key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def expected_best(values: Sequence[float]) -> np.ndarray:
    """The best validation value to expect of a search of 1, 2, ... points, ``[len(values)]`` (Dodge et al. 2019).

    "Show your work: improved reporting of experimental results": of n points drawn at random, with replacement, from
    those that were tried. So it is exact for random search, below what n of these points would give
    without replacement, and for a sampler that learns it says what its points give in random order.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    count = len(ordered)
    draws = np.arange(1, count + 1)[:, None]
    below = np.arange(count + 1) / max(count, 1)  # share of the points at or below each one, ties in any order
    chances = np.diff(below[None, :] ** draws, axis=1)  # [draws, points]: that this one is the best
    return np.asarray(chances @ ordered)
