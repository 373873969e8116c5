"""Several objectives: accuracy against what it costs, and the points of which none is better in everything."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

from raycl.matrix import TaskRow
from raycl.results.outcomes import Outcome, ranked
from raycl.results.schema import cost_columns
from raycl.spec.sweep_options import SearchConfig


class Rated(Protocol):
    """A value that is the better the larger, and costs that are the better the smaller."""

    @property
    def value(self) -> float | None: ...
    @property
    def costs(self) -> Mapping[str, float]: ...


def costs_of(row: Mapping[str, Any]) -> dict[str, float]:
    """What a trial has cost, by the objective's name; those that nobody counted are absent.

    Args:
        row: of the trials table.
    """
    parts = {
        "state_bytes": ("state_bytes", "buffer_bytes"),
        "parameters": ("parameters",),
        "gradient_examples": ("gradient_examples",),
        "forward_examples": ("forward_examples",),
    }
    known = {name: own for name, own in parts.items() if all(row.get(part) is not None for part in own)}
    return {name: float(sum(row[part] for part in own)) for name, own in known.items()}


def costs_of_rows(rows: Sequence[TaskRow]) -> dict[str, float]:
    """The same of a trial's rows."""
    return costs_of(cost_columns([row for row in rows if row.task >= 0], {}))


def dominates(one: Rated, other: Rated, costs: Sequence[str]) -> bool:
    """Whether one is at least as good in everything, and better in something."""
    if one.value is None or other.value is None:
        return False
    better = [(one.value, other.value), *((-one.costs[name], -other.costs[name]) for name in costs)]
    return all(mine >= theirs for mine, theirs in better) and any(mine > theirs for mine, theirs in better)


def front(found: Mapping[int, Rated], costs: Sequence[str]) -> list[int]:
    """The keys of what nothing dominates, the most accurate first; ties go to the lower key."""
    free = [key for key, own in found.items() if not any(dominates(other, own, costs) for other in found.values())]
    return sorted(free, key=lambda key: (-(found[key].value or 0.0), key))


def finalists(search: SearchConfig, outcomes: Sequence[Outcome | None], names: Sequence[Hashable]) -> list[int]:
    """The suggestions that are run again: the best ones, or of several objectives the Pareto set.

    Of a larger set than ``finalists.top`` both ends stay, and others at even distances between them.
    """
    best, top = ranked(outcomes, names), search.top
    if not search.costs:
        return best[:top]
    free = front({index: own for index in best if (own := outcomes[index]) is not None}, search.costs)
    if len(free) <= top:
        return free
    if top == 1:
        return free[:1]
    return [free[round(number * (len(free) - 1) / (top - 1))] for number in range(top)]
