"""How much of the spread of results each source of randomness makes: variance components of a crossed design.

With every combination of the seeds of some sources run once, a result is a mean, plus an effect of each source, plus
one of each set of sources together; all of them are random. The mean square of a set of sources then expects the sum,
over all sets that contain it, of their variances times the runs in which one of their effects stands, and variances
follow by the method of moments (Searle, Casella and McCulloch 1992, Variance components, chapter 4). Intervals are
those of Ting et al. 1990, Confidence intervals on linear combinations of variance components that are unrestricted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import chdtri, fdtri  # type: ignore[import-untyped]

from raycl.errors import StoreError
from raycl.results.seed_columns import seeds_in
from raycl.spec.seeds import SEED_SOURCES

TOGETHER = "together"
"""What sources do only together, and all that no seed decides; where a single source varies there is none."""
TAIL = 0.025
"""Probability beyond either end of an interval."""
LEAST_FREEDOM = 2
"""Degrees of freedom below which no interval is given: that of two seeds spans a thousandfold."""


@dataclass(frozen=True)
class Component:
    """What one source of randomness adds to the variance of a result.

    Attributes:
        source: one of :data:`raycl.spec.seeds.SEED_SOURCES`, or :data:`TOGETHER`.
        variance: in squares of the result's unit; an estimate below 0 counts as 0.
        share: of the sum of all components.
        interval: 95 %, of the deviation; None where there are too few seeds for one.
        remark: what must be known before the figure is believed; empty where there is nothing.
    """

    source: str
    variance: float
    share: float
    interval: tuple[float, float] | None
    remark: str

    @property
    def deviation(self) -> float:
        """Of results between which this source alone changes, in their unit."""
        return math.sqrt(self.variance)


Term = tuple[float, float, int]
"""A factor, a mean square, its degrees of freedom."""


def variance_components(trials: Iterable[Mapping[str, Any]], value: str = "average_accuracy") -> list[Component]:
    """The components of one method at one point, of the sources that have more than one seed.

    Args:
        trials: rows of the trials table; those that have not finished are left out.
        value: a column.

    Raises:
        StoreError: they are no complete crossed design, or not of one method.
    """
    results, sources = _grid([trial for trial in trials if trial["status"] == "finished"], value)
    terms = mean_squares(results, sources)
    estimates = {name: sum(factor * square for factor, square, _ in own) for name, own in terms.items()}
    whole = sum(max(0.0, estimate) for estimate in estimates.values())
    counts = dict(zip(sources, results.shape, strict=True))
    return [_component(name, estimate, whole, terms[name], counts) for name, estimate in estimates.items()]


def mean_squares(results: np.ndarray, sources: Sequence[str]) -> dict[str, list[Term]]:
    """The mean squares whose sum, times their factors, expects the variance of each source, and of sources together.

    Args:
        results: an axis for each source.
    """
    axes = range(results.ndim)
    sets = [frozenset(found) for size in range(1, results.ndim + 1) for found in combinations(axes, size)]
    squares = {found: _mean_square(results, found) for found in sets}
    parts = {source: [frozenset({axis})] for axis, source in enumerate(sources)}
    if len(sources) > 1:
        parts[TOGETHER] = [found for found in sets if len(found) > 1]
    factors = {name: _factors(results.shape, sets, wanted) for name, wanted in parts.items()}
    return {name: [(factor, *squares[found]) for found, factor in own.items()] for name, own in factors.items()}


def _grid(trials: Collection[Mapping[str, Any]], value: str) -> tuple[np.ndarray, list[str]]:
    """The results with an axis for each source that has several seeds, and the names of these sources."""
    methods = {(trial["variant"], trial["alias"], trial["phase"]) for trial in trials}
    found = {seeds_in(trial): trial[value] for trial in trials}
    if len(methods) > 1 or len(found) < len(trials):
        raise StoreError(
            f"variance components are those of one method, variant, phase and point (got {len(trials)} trials with "
            f"{len(found)} combinations of seeds, of {len(methods)} methods, variants and phases); choose "
            "the trials of one"
        )
    levels = {source: sorted({getattr(seeds, source) for seeds in found}) for source in SEED_SOURCES}
    varied = {source: seeds for source, seeds in levels.items() if len(seeds) > 1}
    if not varied:
        raise StoreError(
            "variance components need a source with two seeds (got one run); give seeds: {model: [0, 1, 2]}"
        )
    results = np.full([len(seeds) for seeds in varied.values()], np.nan)
    for seeds, result in found.items():
        place = tuple(levels[source].index(getattr(seeds, source)) for source in varied)
        results[place] = np.nan if result is None else result
    missing = int(np.isnan(results).sum())
    if missing:
        told = " x ".join(f"{len(seeds)} {source}" for source, seeds in varied.items())
        raise StoreError(
            f"variance components need every combination of the seeds ({told}; {missing} of {results.size} are "
            "missing); give them crossed: true, and let all runs finish"
        )
    return results, list(varied)


def _mean_square(results: np.ndarray, found: frozenset[int]) -> tuple[float, int]:
    """The mean square of a set of axes, and its degrees of freedom."""
    effect = results
    for axis in range(results.ndim):
        mean = effect.mean(axis, keepdims=True)
        effect = effect - mean if axis in found else mean
    freedom = math.prod(results.shape[axis] - 1 for axis in found)
    return float(np.square(effect).sum()) * _runs_of_one(results.shape, found) / freedom, freedom


def _runs_of_one(shape: tuple[int, ...], found: frozenset[int]) -> int:
    """The runs in which one effect of a set of axes stands."""
    return math.prod(size for axis, size in enumerate(shape) if axis not in found)


def _factors(
    shape: tuple[int, ...], sets: Iterable[frozenset[int]], wanted: Iterable[frozenset[int]]
) -> dict[frozenset[int], float]:
    """The factors of mean squares whose sum expects the sum of the components of some sets of axes."""
    factors = dict.fromkeys(sets, 0.0)
    for component in wanted:
        for found in factors:
            if component <= found:
                factors[found] += (-1) ** len(found - component) / _runs_of_one(shape, component)
    return {found: factor for found, factor in factors.items() if factor}


def _component(name: str, estimate: float, whole: float, terms: list[Term], counts: Mapping[str, int]) -> Component:
    variance, remarks = max(0.0, estimate), []
    if estimate < 0:
        remarks.append(f"estimated below 0 ({estimate:.2g}): not to be told from none")
    interval = None
    if min(freedom for factor, _, freedom in terms if factor > 0) < LEAST_FREEDOM:
        told = f"{counts[name]} seeds" if name in counts else "so few seeds"
        remarks.append(f"{told} give no interval; three give a wide one")
    else:
        low, high = (math.sqrt(max(0.0, end)) for end in interval_of(terms))
        interval = low, high
    return Component(name, variance, variance / whole if whole else math.nan, interval, "; ".join(remarks))


def interval_of(terms: Iterable[Term]) -> tuple[float, float]:
    """About 95 % for a sum of expected mean squares with factors of either sign, after Ting et al. 1990."""
    added = [(factor * square, freedom) for factor, square, freedom in terms if factor > 0]
    taken = [(-factor * square, freedom) for factor, square, freedom in terms if factor < 0]
    estimate = sum(part for part, _ in added) - sum(part for part, _ in taken)
    return estimate - math.sqrt(_spread(added, taken)), estimate + math.sqrt(_spread(taken, added))


def _spread(towards: list[tuple[float, int]], against: list[tuple[float, int]]) -> float:
    """How far the bound lies from the estimate, squared, on the side where the parts ``towards`` are too large."""
    found = sum((_above(n) * part) ** 2 for part, n in towards) + sum((_below(n) * part) ** 2 for part, n in against)
    for part, n in towards:
        for other, m in against:
            f = float(fdtri(n, m, 1 - TAIL))
            found += ((f - 1) ** 2 - (_above(n) * f) ** 2 - _below(m) ** 2) / f * part * other
    for (part, n), (other, m) in combinations(towards, 2):
        both = _above(n + m) ** 2 * (n + m) ** 2 / (n * m) - _above(n) ** 2 * n / m - _above(m) ** 2 * m / n
        found += both / (len(towards) - 1) * part * other
    return max(0.0, found)


def _above(freedom: int) -> float:
    return 1 - freedom / float(chdtri(freedom, TAIL))


def _below(freedom: int) -> float:
    return freedom / float(chdtri(freedom, 1 - TAIL)) - 1
