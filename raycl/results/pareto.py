"""Pareto sets on test data: what the points that a search of several objectives has kept come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from raycl.results.objectives import costs_of
from raycl.results.standing import Standing
from raycl.results.statistics import Spread
from raycl.spec.trial import Scalar


@dataclass(frozen=True)
class ParetoPoint:
    """A point of a method's Pareto set.

    Attributes:
        accuracy: average accuracy on test data, over the final seeds that have finished.
        costs: what was minimised, by its name: means over the same.
    """

    point: Mapping[str, Scalar]
    accuracy: Spread
    costs: Mapping[str, float]


def pareto_points(
    standing: Standing, trials: Mapping[str, Mapping[str, Any]], costs: Sequence[str]
) -> tuple[ParetoPoint, ...]:
    """The points of an entry of which a final trial has finished, the most accurate on validation data first."""
    found = []
    for asked in standing.pareto.values():
        rows = [trials[one.spec.hash] for one in asked if one.spec.hash in trials]
        rows = [row for row in rows if row["status"] == "finished"]
        accuracy = Spread.of(row["average_accuracy"] for row in rows)
        if accuracy is not None:
            spent = [costs_of(row) for row in rows]
            means = {name: fmean(own[name] for own in spent) for name in costs if all(name in own for own in spent)}
            found.append(ParetoPoint(asked[0].spec.point, accuracy, means))
    return tuple(found)


def pareto_rows(sets: Mapping[str, Iterable[ParetoPoint]]) -> list[dict[str, Any]]:
    """A row for each point, for tables: method, searched values, accuracy in [0, 1] with its deviation, and costs."""
    return [
        {
            "method": key,
            **own.point,
            "average_accuracy_mean": own.accuracy.mean,
            "average_accuracy_std": own.accuracy.std,
            "seeds": own.accuracy.n,
            **own.costs,
        }
        for key, points in sets.items()
        for own in points
    ]
