"""What stands under a comparison table: all that its figures do not say by themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raycl.results.baseline import Baseline
from raycl.results.comparison import Line
from raycl.results.layout import human_bytes, seeds, winner
from raycl.results.pareto import ParetoPoint
from raycl.results.pooled import POOLED
from raycl.results.searched import EDGE
from raycl.results.searched import told as shown
from raycl.results.statistics import LEVEL
from raycl.spec.entry import entry_key


def figures(lines: Sequence[Line]) -> list[str]:
    """What the columns hold."""
    notes = [
        "Mean ± standard deviation (n - 1) over n final seeds, scored on test data. ± 95 %: half-width of the mean's "
        "t-interval."
    ]
    if any(line.scored_on == "validation" for line in lines):
        notes.append(
            "v: no final trial has finished; the winner, or the best point so far, on validation data, over n search "
            "seeds."
        )
    if any(POOLED[0] in line.metrics for line in lines):
        notes.append("Tasks differ in size: average accuracy weighs every task alike, pooled accuracy every image.")
    return notes


def apart(differ: Sequence[str]) -> list[str]:
    """Why methods of several sweeps are not compared with one another."""
    return [f"The sweeps differ in {'; '.join(differ)}: methods are compared within each alone."] if differ else []


def winners(lines: Sequence[Line]) -> list[str]:
    """The searched values of every winner, where they have no column."""
    told = [f"{line.key} {', '.join(winner(line))}" for line in lines if winner(line)]
    return [f"Winners: {'; '.join(told)}."] if told else []


def support(lines: Sequence[Line], baselines: Mapping[str, Baseline], named: str | None) -> list[str]:
    """Which differences the seeds support."""
    compared = [found for found in baselines.values() if found.against]
    notes = [f"{_BOLD[chosen]} ({_HOW})." for chosen in dict.fromkeys(found.chosen_by for found in compared)]
    notes += [_group(found, lines) for found in compared]
    for found in compared:
        sizes = {line.key: len(line.by_seed) for line in lines}
        shared = {key: against.difference.n for key, against in found.against.items()}
        told = [f"{key} {n}" for key, n in shared.items() if n < max(sizes[key], sizes[found.key])]
        notes += [f"Seeds shared with {found.key}: {', '.join(told)}."] if told else []
    if any(_crossed(line) for line in lines):
        notes.append(
            "Seeds are crossed, so that runs share some; intervals and p take runs for independent, and are too narrow."
        )
    for family in dict.fromkeys(line.family for line in lines if line.by_seed):
        if named is not None and family not in baselines:
            notes.append(f"No comparison: the baseline {entry_key(family, named)} has no test figures.")
    return notes


def _crossed(line: Line) -> bool:
    """Whether some runs share the seed of a source, and others do not."""
    seeds = [set(values) for values in zip(*(seeds.values for seeds in line.by_seed), strict=True)]
    return any(1 < len(own) < len(line.by_seed) for own in seeds)


_BOLD = {
    "name": "Bold: the baseline that was named, and what is not told apart from it",
    "validation": "Bold: the best on validation data, by which methods are ordered, and what is not told apart from it",
    "test": "Bold: the best on these test data, as there are no validation figures, and what is not told apart "
    "from it; all pairs count as comparisons",
}
_HOW = f"paired t over equal seeds, {100 * (1 - LEVEL):.0f} %, Holm's correction"


def _group(found: Baseline, lines: Sequence[Line]) -> str:
    """What is told apart from a baseline, and what is not."""
    own = {line.key: line for line in lines if line.family == found.family}
    sign = own[found.key].sign
    apart = {key for key, against in found.against.items() if against.apart}
    tied = [own[key].name for key in found.group if key != found.key]
    better = [own[key].name for key in own if key in apart and sign * found.against[key].difference.mean > 0]
    untested = [own[key].name for key in found.group if key != found.key and not found.tests(key)]
    parts = [
        f"{own[found.key].name} ({found.comparisons} comparison{'s' * (found.comparisons != 1)})",
        f"not told apart: {', '.join(tied)}" if tied else "all others are told apart",
        f"better: {', '.join(better)}" if better else "",
        f"too few seeds, or equal ones, to test: {', '.join(untested)}" if untested else "",
    ]
    head = f"Baseline of {found.family}" if found.family else "Baseline"
    return f"{head}: {'; '.join(filter(None, parts))}."


def tradeoffs(lines: Sequence[Line]) -> list[str]:
    """The Pareto set of each method that was searched by several objectives."""
    sets = {line.key: "; ".join(map(_tradeoff, line.pareto)) for line in lines if line.pareto}
    return [f"{key}, Pareto set on test data: {points}." for key, points in sets.items()]


def _tradeoff(own: ParetoPoint) -> str:
    spread = "" if math.isnan(own.accuracy.std) else f" ± {100 * own.accuracy.std:.2f}"
    costs = [
        human_bytes(value) if name == "state_bytes" else f"{value:,.0f} {name.replace('_', ' ')}"
        for name, value in own.costs.items()
    ]
    point = ", ".join(f"{path} {shown(value)}" for path, value in own.point.items())
    return f"{100 * own.accuracy.mean:.2f}{spread} % at {', '.join(costs)} ({point})"


def searches(lines: Sequence[Line]) -> list[str]:
    """What speaks against believing a search."""
    notes = []
    ends = [f"{line.key} {told}" for line in lines if line.search and line.search.ended for told in line.search.at_ends]
    if ends:
        remedy = "Widen it, and continue in the same folder."
        notes.append(f"Winners within {100 * EDGE:.0f} % of an end of their range: {', '.join(ends)}. {remedy}")
    for family in dict.fromkeys(line.family for line in lines):
        ended = [line for line in lines if line.family == family and line.search and line.search.ended]
        most = max((line.search.points for line in ended if line.search), default=0)
        for line in ended:
            if line.search and line.search.points < most and not line.search.whole:
                notes.append(f"{line.key}: {line.search.points} distinct points were tried, of others up to {most}.")
    return notes


def references(lines: Sequence[Line]) -> list[str]:
    """Which lines are no competitors, and what others were measured against."""
    notes = []
    referred = {entry_key(line.place, line.variant): line.reference for line in lines if line.reference}
    for variant, alias in referred.items():
        told = f" of {variant.rstrip('/')}" if variant else ""
        notes.append(f"Intransigence{told}: against the diagonal of {alias}, cumulative training of the same seed.")
    if any(line.upper_bound for line in lines):
        notes.append("†: upper bound, trains on the data of earlier or later tasks as well.")
    return notes + [f"{line.key}: n/a, {line.barred}" for line in lines if line.barred]


def failures(lines: Iterable[Line]) -> list[str]:
    """What failed of each method, in every phase, and where the first traceback of each lies."""
    return [note for line in lines for note in _failures(line)]


def _failures(line: Line) -> list[str]:
    told = list(line.told)
    if line.failure and line.failure not in told:  # it says more: that nothing is left to choose from
        told = [line.failure, *(text for text in told if text not in line.failure)]
    files = [failure.traceback for failure in line.failed if failure.traceback]
    return [f"{line.key}: {text}" for text in told] + ([f"  traceback: {files[0]}"] if told and files else [])


def machines(lines: Iterable[Line]) -> list[str]:
    """Whether trials ran on machines that round otherwise."""
    families: dict[str, set[tuple[Any, ...]]] = {}
    for line in lines:
        families.setdefault(line.family, set()).update(line.machines)
    found = set().union(*(own for own in families.values() if len(own) > 1))
    if not found:
        return []
    told = "; ".join(f"{cpu}, {threads} threads, torch {torch}" for cpu, threads, torch in sorted(found, key=str))
    return [f"‡: mixed machines, so equal trials may differ in their last bits ({told})."]


def incomplete(lines: Iterable[Line], begun: int, refused: str) -> list[str]:
    """What is left to run.

    Args:
        begun: trials that have begun and not ended.
        refused: why the sweep is not continued; empty where it can be.
    """
    waiting = [f"{line.key} {seeds(line)}" if line.planned else line.key for line in lines if not line.complete]
    if not waiting:
        return []
    told = f"; trials begun and not ended: {begun}" if begun else ""
    remedy = f"This raycl refuses its sweep file: {refused}" if refused else "`raycl resume` continues."
    return [f"Incomplete: {', '.join(waiting)}{told}. {remedy}"]
