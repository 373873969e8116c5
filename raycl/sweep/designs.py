"""Points spread over a search space, before there are results to learn from."""

from __future__ import annotations

import numpy as np

from raycl.spec.points import Point, Space, point_at


def latin_hypercube(space: Space, count: int, seed: int) -> list[Point]:
    """Points of which each dimension has one in every ``count``-th part of its range (McKay et al. 1979).

    Within its part the value is random where values cannot be counted, and the middle one where they can: so a choice
    of at most ``count`` values has each of them.
    """
    drawn = np.random.default_rng(seed)
    columns = []
    for found in space.values():
        within = drawn.random(count)
        columns.append((drawn.permutation(count) + (0.5 if found.count is not None else within)) / count)
    return [point_at(space, row) for row in np.stack(columns, axis=1)]


def sobol_point(space: Space, index: int, seed: int) -> Point:
    """Point ``index`` of a scrambled Sobol sequence (Sobol 1967; Owen 1995)."""
    from scipy.stats import qmc  # type: ignore[import-untyped]  # half a second of imports, which others do not need

    sequence = qmc.Sobol(len(space), rng=np.random.default_rng(seed))
    if index:
        sequence.fast_forward(index)
    return point_at(space, sequence.random(1)[0])
