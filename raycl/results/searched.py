"""What the search of a method has come to: its winner, what was spent, and what speaks against believing it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycl.results.outcomes import mean
from raycl.results.standing import Standing
from raycl.spec.distribution import Conditional, Distribution, format_value
from raycl.spec.points import points_in
from raycl.spec.space import Choice
from raycl.spec.trial import Scalar, TrialSpec

EDGE = 0.05
"""A winner so close to an end of its range, as a share of it, may have its best value beyond."""


@dataclass(frozen=True)
class Searched:
    """The search of one method in one variant.

    Attributes:
        winner: its point; before there is one, the best suggestion so far.
        validation: the search metric of the winner, the mean over its validation seeds.
        metric: what was maximised.
        values: the metric on validation data of each distinct point that finished, in the order of the suggestions.
        points: distinct points that have been tried to their end; those that a limit refused were not.
        whole: whether these are all points of its space.
        trials, seconds: of search and finalists, and the wall seconds in them.
        ended: whether its winner has been named.
        elsewhere: whether it was judged by other tasks than the final trials are (``search.protocol``).
        at_ends: of the winner, what lies at an end of its range: ``memory.capacity 200 of choice(50, 100, 200)``.
    """

    winner: Mapping[str, Scalar]
    validation: float
    metric: str
    values: tuple[float, ...]
    points: int
    whole: bool
    trials: int
    seconds: float
    ended: bool
    elsewhere: bool = False
    at_ends: tuple[str, ...] = ()


def searched(standing: Standing, metric: str, trials: Mapping[str, Mapping[str, Any]]) -> Searched | None:
    """The search of an entry as far as it has got; None where nothing was searched, or nothing has finished.

    Args:
        metric: of the search.
        trials: rows of the trials table by hash.
    """
    validated = standing.validated
    known = [asked.verdict.value for asked in validated if asked.verdict and asked.verdict.value is not None]
    if not standing.suggested or not known:
        return None
    names = [asked[0].spec.hash for asked in standing.suggested]
    outcomes = {name: end for name, end in zip(names, standing.outcomes, strict=True) if end is not None}
    tried = {asked[0].spec.hash for asked in standing.suggested if asked[0].record is not None}
    count = points_in(standing.entry.space)
    own = [asked.spec.hash for phase in ("search", "finalists") for asked in standing.trials(phase)]
    spent = [trials[name] for name in dict.fromkeys(own) if name in trials]
    winner, space = validated[0].spec.point, standing.entry.space
    return Searched(
        winner=dict(winner),
        validation=mean(known),
        metric=metric,
        values=tuple(end.value for end in outcomes.values() if end.value is not None),
        points=len(tried & outcomes.keys()),
        whole=count is not None and len(outcomes) >= count,
        trials=len(spent),
        seconds=math.fsum(trial["wall_seconds"] or 0.0 for trial in spent),
        ended=standing.winner is not None,
        elsewhere=any(_tasks(asked.spec) != _tasks(validated[0].spec) for asked in standing.final),
        at_ends=tuple(
            f"{path} {told(winner[path])} of {found}"
            for path, found in space.items()
            if path in winner and end_of(found, winner[path])
        ),
    )


def _tasks(spec: TrialSpec) -> tuple[Any, ...]:
    return spec.stream, spec.first_tasks, spec.skipped_tasks


def told(value: Scalar) -> str:
    """A searched value in a table, to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else value if isinstance(value, str) else format_value(value)


def end_of(found: Distribution, value: Scalar) -> str:
    """``lower`` or ``upper``, where a value is that end of its range, or lies within :data:`EDGE` of it; else empty.

    In the scale of the distribution. Choices have ends where they are numbers in order. Of two values each is an end,
    and tells nothing.
    """
    found = found.inner if isinstance(found, Conditional) else found
    if found.count is not None and found.count < 3:
        return ""
    if isinstance(found, Choice):
        return _end_of_choices(found, value)
    (_, low), (_, high) = found.ends
    share = found.share(value)
    return "lower" if value == low or share <= EDGE else "upper" if value == high or share >= 1 - EDGE else ""


def _end_of_choices(found: Choice, value: Scalar) -> str:
    numbers = [choice for choice in found.choices if isinstance(choice, (int, float)) and not isinstance(choice, bool)]
    in_order = sorted(numbers)
    if len(numbers) < len(found.choices) or numbers not in (in_order, in_order[::-1]):
        return ""
    return "lower" if value == in_order[0] else "upper" if value == in_order[-1] else ""
