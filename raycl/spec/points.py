"""Points of a search space: counted, listed and laid out in the unit cube."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TypeAlias

from raycl.spec.space import Distribution
from raycl.spec.trial import Scalar

Space: TypeAlias = Mapping[str, Distribution]
Point: TypeAlias = dict[str, Scalar]


def points_in(space: Space) -> int | None:
    """How many points a space has; None where there are more than can be counted."""
    counts = [found.count for found in space.values()]
    return None if None in counts else math.prod(count for count in counts if count is not None)


def every_point(space: Space) -> Iterator[Point]:
    """Every point of a space that can be counted, the last dimension changing fastest."""
    for values in product(*(tuple(found.values_in_order) for found in space.values())):
        yield dict(zip(space, values, strict=True))


def point_at(space: Space, shares: Sequence[float]) -> Point:
    """The point at a place of the unit cube, each coordinate in [0, 1)."""
    return {path: found.at(float(share)) for (path, found), share in zip(space.items(), shares, strict=True)}


def place_of(space: Space, point: Mapping[str, Scalar]) -> tuple[float, ...]:
    """Where a point lies in the unit cube; :func:`point_at` reads it back."""
    return tuple(found.share(point[path]) for path, found in space.items())
