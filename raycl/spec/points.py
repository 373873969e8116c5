"""Points of a search space: counted, listed and laid out in the unit cube."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TypeAlias

from raycl.spec.distribution import Conditional, Distribution
from raycl.spec.trial import Scalar

Space: TypeAlias = Mapping[str, Distribution]
Point: TypeAlias = dict[str, Scalar]


def active(space: Space, point: Mapping[str, Scalar]) -> Point:
    """What is searched at a point, in the order of the space: without options whose condition is not met."""
    return {path: point[path] for path, found in space.items() if path in point and acts(found, point)}


def acts(found: Distribution, point: Mapping[str, Scalar]) -> bool:
    return not isinstance(found, Conditional) or found.acts(point)


def points_in(space: Space) -> int | None:
    """How many points a space has; None where there are more than can be counted."""
    named: dict[str, list[Scalar]] = {}
    for path, values in (when for found in space.values() if isinstance(found, Conditional) for when in found.when):
        named.setdefault(path, []).extend(values)
    total = 0
    for chosen in product(*(_cases(space[path], values) for path, values in named.items())):
        point = {path: value for path, (value, _) in zip(named, chosen, strict=True) if value is not None}
        counts = [count for _, count in chosen]
        counts += [found.count for path, found in space.items() if path not in named and acts(found, point)]
        if None in counts:
            return None
        total += math.prod(count for count in counts if count is not None)
    return total


def _cases(found: Distribution, named: Sequence[Scalar]) -> list[tuple[Scalar | None, int | None]]:
    """The values of an option that others depend on, each with how many points it has: those that are named, and all
    others as one."""
    drawn = [value for value in map(found.encode, named) if value is not None]
    own = {(type(value), value): value for value in drawn}.values()
    others = None if found.count is None else found.count - len(own)
    return [*((value, 1) for value in own), *([] if others == 0 else [(None, others)])]


def every_point(space: Space) -> Iterator[Point]:
    """Every point of a space that can be counted, the last dimension changing fastest, dependent ones at the end."""
    free = {path: found for path, found in space.items() if not isinstance(found, Conditional)}
    for values in product(*(tuple(found.values_in_order) for found in free.values())):
        point = dict(zip(free, values, strict=True))
        more = {path: found for path, found in space.items() if path not in free and acts(found, point)}
        for further in product(*(tuple(found.values_in_order) for found in more.values())):
            yield active(space, point | dict(zip(more, further, strict=True)))


def point_at(space: Space, shares: Sequence[float]) -> Point:
    """The point at a place of the unit cube, each coordinate in [0, 1)."""
    values = {path: found.at(float(share)) for (path, found), share in zip(space.items(), shares, strict=True)}
    return active(space, values)


def place_of(space: Space, point: Mapping[str, Scalar]) -> tuple[float, ...]:
    """Where a point lies in the unit cube, in the middle of what is not searched there; :func:`point_at` reads it
    back."""
    return tuple(found.share(point[path]) if path in point else 0.5 for path, found in space.items())
