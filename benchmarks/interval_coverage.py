"""Whether the table's intervals and its tie groups promise what they keep, on accuracies of the kept paper sweeps.

Coverage: n seeds are drawn, and the 95 % t-interval of their mean holds the mean of what they are drawn from, or not.
They are drawn from the pooled residuals of all methods with five seeds or more (of ceilings: those above 97 %), each
divided by its method's deviation; and from each method's own few values, with replacement, which is harsher than real
seeds are, since they repeat.

Family-wise error: labels are permuted within each drawn seed, so that no method differs from another, and a family errs
where any method is told apart from the baseline. With all values as they are, where methods lie tens of points apart;
and centred, each method less its mean. The baseline is one that test data did not choose, or the best on them, for
which the table counts all pairs; beside it, what would come of counting only those shown, and of no correction.

    python benchmarks/interval_coverage.py [repeats]
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from shared import report

from raycl.results.baseline import baselines
from raycl.results.comparison import Line
from raycl.results.statistics import Interval, Spread, deviation

KEPT = Path(__file__).parents[1] / "analysis" / "papers"
SIZES = (3, 5, 10)
CEILING, LEAST = 0.97, 5


@dataclass(frozen=True)
class Group:
    """Average accuracies of one method in one variant of a kept sweep, by seed."""

    sweep: str
    variant: str
    alias: str
    by_seed: Mapping[int, float]

    @property
    def values(self) -> list[float]:
        return list(self.by_seed.values())


def groups() -> Iterator[Group]:
    """Of the final trials of every kept sweep, with two seeds or more."""
    columns = ["variant", "alias", "seed", "phase", "average_accuracy"]
    for path in sorted(KEPT.glob("*/trials.parquet")):
        found: dict[tuple[str, str], dict[int, float]] = {}
        for trial in pq.read_table(path, columns=columns).to_pylist():
            if trial["phase"] == "final" and trial["average_accuracy"] is not None:
                own = found.setdefault((trial["variant"] or "", trial["alias"]), {})
                own[trial["seed"]] = trial["average_accuracy"]
        for (variant, alias), by_seed in found.items():
            if len(by_seed) > 1:
                yield Group(path.parent.name, variant, alias, by_seed)


def residuals(found: Sequence[Group]) -> np.ndarray:
    """Of all values from their method's mean, in its deviations, as wide as those of further seeds would be."""
    parts = []
    for group in (group for group in found if len(group.by_seed) >= LEAST):
        std, n = deviation(group.values), len(group.by_seed)
        if not math.isnan(std):
            parts.append((np.array(group.values) - statistics.fmean(group.values)) / std * math.sqrt(n / (n - 1)))
    return np.concatenate(parts)


def coverage(
    populations: Sequence[np.ndarray], n: int, repeats: int, random: np.random.Generator
) -> tuple[float, float]:
    """Share of intervals that hold their population's mean, of those that are defined; share of those."""
    held = defined = 0
    for population in populations:
        mean = float(population.mean())
        for values in random.choice(population, (repeats, n)):
            interval = Interval.of(values.tolist())
            assert interval is not None
            defined += not math.isnan(interval.margin)
            held += abs(interval.mean - mean) <= interval.margin
    return held / defined, defined / (repeats * len(populations))


def permuted(family: np.ndarray, n: int, random: np.random.Generator) -> list[Line]:
    """Methods that do not differ: n seeds of ``[methods, seeds]`` with their labels permuted, the best mean first."""
    drawn = family[:, random.integers(family.shape[1], size=n)]
    values = random.permuted(drawn, axis=0)
    lines = []
    for number, row in enumerate(values.tolist()):
        metrics = {"average_accuracy": spread} if (spread := Spread.of(row)) else {}
        lines.append(Line("", str(number), "", "test", metrics=metrics, by_seed=dict(enumerate(row))))
    return sorted(lines, key=lambda line: -line.metrics["average_accuracy"].mean)


@dataclass
class Errors:
    """Families that erred, and intervals of differences that held zero."""

    named: int = 0
    best: int = 0
    shown_alone: int = 0
    uncorrected: int = 0
    intervals: int = 0
    held: int = 0
    best_held: int = 0


def errors(families: Sequence[np.ndarray], n: int, repeats: int, random: np.random.Generator) -> Errors:
    """Count over permuted families."""
    told = Errors()
    for family in families:
        for _ in range(repeats):
            lines = permuted(family, n, random)
            named, best = baselines(lines, "0")[""], baselines(lines)[""]
            alone = baselines(lines, best.key)[""]
            told.named += any(against.apart for against in named.against.values())
            told.best += any(against.apart for against in best.against.values())
            told.shown_alone += any(against.apart for against in alone.against.values())
            for found, name in ((named, "held"), (best, "best_held")):
                inside = [abs(one.difference.mean) <= one.difference.margin for one in found.against.values()]
                setattr(told, name, getattr(told, name) + sum(inside))
            outside = [abs(one.difference.mean) > one.difference.margin for one in named.against.values()]
            told.uncorrected += any(outside)
            told.intervals += len(outside)
    return told


def families(found: Sequence[Group], centred: bool) -> list[np.ndarray]:
    """Accuracies ``[methods, seeds]`` of each variant with three methods and three seeds or more."""
    by_variant: dict[tuple[str, str], list[Group]] = {}
    for group in found:
        by_variant.setdefault((group.sweep, group.variant), []).append(group)
    tables = []
    for own in by_variant.values():
        common = sorted(set.intersection(*(set(group.by_seed) for group in own)))
        if len(own) >= 3 and len(common) >= 3:
            table = np.array([[group.by_seed[seed] for seed in common] for group in own])
            tables.append(table - centred * table.mean(axis=1, keepdims=True))
    return tables


def main(repeats: int) -> None:
    found, random = list(groups()), np.random.default_rng(0)
    spreads = [deviation(group.values) for group in found]
    low, middle, high = 100 * np.nanpercentile(spreads, [25, 50, 75])
    sizes = f"{len(found)} methods and variants of {len({group.sweep for group in found})} sweeps"
    report(
        "standard deviation of average accuracy over final seeds, points",
        ("", "first quartile", "median", "third quartile"),
        [(sizes, f"{low:.2f}", f"{middle:.2f}", f"{high:.2f}")],
        "",
    )
    ceilings = [group for group in found if statistics.fmean(group.values) > CEILING]
    pools = {
        "pooled residuals": [residuals(found)],
        "pooled residuals, ceilings": [residuals(ceilings)],
        "each method's own values": [np.array(group.values) for group in found if len(group.by_seed) >= LEAST],
        "each method's own values, ceilings": [
            np.array(group.values) for group in ceilings if len(group.by_seed) >= LEAST
        ],
    }
    rows = []
    for name, populations in pools.items():
        turns = 40_000 if len(populations) == 1 else 2 * repeats
        told = [coverage(populations, n, turns, random) for n in SIZES]
        many = sum(map(len, populations))
        rows.append((f"{name} ({many})", *(f"{100 * held:.1f} % ({100 * share:.0f} %)" for held, share in told)))
    columns = ("drawn from (values)", *(f"n = {n}" for n in SIZES))
    report("t-intervals of 95 % that hold the mean (share that is defined)", columns, rows, "")
    rows = []
    for centred in (False, True):
        tables = families(found, centred)
        for n in SIZES:
            told = errors(tables, n, repeats, random)
            count = repeats * len(tables)
            shares = (told.named, told.best, told.shown_alone, told.uncorrected)
            rows.append(
                (
                    f"{'centred' if centred else 'as they are'}, n = {n}",
                    *(f"{100 * share / count:.1f} %" for share in shares),
                    *(f"{100 * share / told.intervals:.1f} %" for share in (told.held, told.best_held)),
                )
            )
    columns = ("values", "named", "best, all pairs", "best, those shown", "uncorrected", "interval of named", "of best")
    note = f"{len(families(found, False))} families of {sizes}, {repeats} permutations each"
    report("families in which equal methods are told apart; intervals of differences that hold 0", columns, rows, note)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
