"""The answer of a sweep in sentences that its seeds support: what is not told apart is never ranked."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raycl.results.baseline import Baseline
from raycl.results.comparison import Line
from raycl.results.statistics import LEVEL
from raycl.results.tables import Comparison

NO_ANSWER = "No method has been scored on test data yet."
OF_METRIC = {"average_accuracy": "average accuracy after the last task"}
"""In words, where the name alone is not enough."""


def answers(table: Comparison) -> list[tuple[str, str]]:
    """For each family of methods that are compared with one another: its name, empty where there is one, and the
    answer."""
    families = list(dict.fromkeys(line.family for line in table.lines))
    return [(family if len(families) > 1 else "", _answer(table, family)) for family in families]


def _answer(table: Comparison, family: str) -> str:
    lines = [line for line in table.lines if line.family == family]
    base = table.baselines.get(family)
    if base is None:
        return NO_ANSWER
    known = {line.key: line for line in lines}
    parts = [_first(base, known), *_others(base, known), *_bounds(lines)]
    waiting = [line.name for line in lines if not line.complete]
    if waiting:
        parts.insert(0, f"So far, as {in_words(waiting)} {'has' if len(waiting) == 1 else 'have'} not ended:")
    return " ".join(parts)


def _first(base: Baseline, lines: dict[str, Line]) -> str:
    """The baseline, how it was chosen, and its figure."""
    own = lines[base.key]
    figure = f"{_figure(own)} of {OF_METRIC.get(own.metric, own.metric.replace('_', ' '))}"
    told = {
        "validation": f"{own.name} was best on validation data, and reaches {figure} on test data.",
        "test": f"{own.name} has the highest mean on the test data themselves, as nothing was searched: {figure}.",
        "name": f"{own.name}, with which the others are compared, reaches {figure}.",
    }
    return told[base.chosen_by]


def _others(base: Baseline, lines: dict[str, Line]) -> list[str]:
    """What stands above the baseline, beside it and below it, as far as the seeds tell."""
    rivals = [line for key, line in lines.items() if key in base.against and not line.upper_bound]
    if not rivals:
        return ["No other method was scored on the same seeds, so that there is nothing to compare it with."]
    apart = [line for line in rivals if base.against[line.key].apart]
    better = [line.name for line in apart if line.sign * base.against[line.key].difference.mean > 0]
    worse = [line.name for line in apart if line.sign * base.against[line.key].difference.mean < 0]
    tested = [line.name for line in rivals if line not in apart and base.tests(line.key)]
    untested = [line.name for line in rivals if line not in apart and not base.tests(line.key)]
    told = []
    if better:
        told.append(f"On test data it is beaten by {in_words(better)}.")
    if tested:
        told.append(f"The seeds do not tell it apart from {in_words(tested)}: between these no rank is claimed.")
    if untested:
        told.append(f"It cannot be compared with {in_words(untested)}: too few seeds in common, or equal differences.")
    if worse:
        every = "all others" if len(worse) == len(rivals) > 1 else in_words(worse)
        told.append(f"It is told apart from {every}, which keep{'s' * (len(worse) == 1)} less.")
    count = f"{base.comparisons} comparison{'s' * (base.comparisons != 1)}"
    how = f"Paired t tests over equal seeds at {100 * (1 - LEVEL):.0f} %, with Holm's correction for {count}."
    return [*told, how]


def _bounds(lines: Sequence[Line]) -> list[str]:
    """Upper bounds, which are no competitors."""
    found = [f"{line.name} {_figure(line)}" for line in lines if line.upper_bound and line.interval]
    return [f"Upper bounds, which see data that a continual learner has not: {in_words(found)}."] if found else []


def _figure(line: Line) -> str:
    """``90.9 % (95 % interval 89.2 to 92.6, 3 seeds)``."""
    interval = line.interval
    assert interval is not None, "only lines with figures on test data are told"
    seeds = f"{interval.n} seed{'s' * (interval.n != 1)}"
    if math.isnan(interval.margin):
        return f"{100 * interval.mean:.1f} % ({seeds}, no interval)"
    low, high = (100 * (interval.mean + side * interval.margin) for side in (-1, 1))
    return f"{100 * interval.mean:.1f} % ({100 * LEVEL:.0f} % interval {low:.1f} to {high:.1f}, {seeds})"


def in_words(names: Sequence[str]) -> str:
    """``"a, b and c"``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
