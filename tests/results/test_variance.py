"""Variance components of crossed designs: worked by hand, over many draws, and refused where there is none."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from raycl.errors import StoreError
from raycl.results.seed_columns import SEED_COLUMNS
from raycl.results.variance import TOGETHER, Component, interval_of, mean_squares, variance_components

BY_HAND = np.array([[80.0, 84.0], [90.0, 98.0]])
"""Of two models (rows) and two orders of batches; the mean is 88, the means of the rows 82 and 94, of the columns 85
and 91. What is left over is 1, -1, -1, 1. Mean squares, of one degree of freedom each: 2 (6² + 6²) = 144 of models,
2 (3² + 3²) = 36 of batches, 4 of both together. So (144 - 4) / 2 = 70, (36 - 4) / 2 = 16, and 4."""


def trials(results: np.ndarray, *sources: str, **more: Any) -> list[dict[str, Any]]:
    """Rows of the trials table with one result for every combination of seeds, an axis for each source."""
    found = []
    for place in product(*(range(size) for size in results.shape)):
        seeds = dict.fromkeys(SEED_COLUMNS, 7) | {
            f"seed_{name}": 10 + at for name, at in zip(sources, place, strict=True)
        }
        named = {"variant": "", "alias": "ewc", "phase": "final", "status": "finished"}
        found.append({**named, **seeds, "average_accuracy": results[place], **more})
    return found


def components(results: np.ndarray, *sources: str) -> dict[str, Component]:
    return {found.source: found for found in variance_components(trials(results, *sources))}


def test_two_by_two_by_hand() -> None:
    found = components(BY_HAND, "model", "batches")
    assert {name: part.variance for name, part in found.items()} == pytest.approx(
        {"model": 70.0, "batches": 16.0, TOGETHER: 4.0}
    )
    assert [part.share for part in found.values()] == pytest.approx([70 / 90, 16 / 90, 4 / 90])
    assert found["batches"].deviation == pytest.approx(4.0)
    assert all(part.interval is None for part in found.values())
    assert found["model"].remark == "2 seeds give no interval; three give a wide one"


def test_the_order_of_trials_and_what_has_not_finished_change_nothing() -> None:
    given = trials(BY_HAND, "model", "batches")
    failed = {**given[0], "status": "failed", "average_accuracy": None}
    assert variance_components([failed, *given[::-1]]) == variance_components(given)


def test_one_source_alone_is_the_variance_of_the_results() -> None:
    (found,) = variance_components(trials(np.array([1.0, 2.0, 6.0]), "split"))
    assert (found.source, found.variance, found.share) == ("split", pytest.approx(7.0), 1.0)
    # Chi-squared with two degrees of freedom: 2 * 7 / 7.3778 and 2 * 7 / 0.050636.
    assert found.interval == pytest.approx((1.8976**0.5, 276.48**0.5), rel=1e-3)


def test_an_estimate_below_nothing_is_told_as_nothing() -> None:
    found = components(np.array([[0.0, 1.0], [1.0, 0.0]]), "model", "batches")
    assert (found["model"].variance, found["model"].share) == (0.0, 0.0)
    assert found["model"].remark.startswith("estimated below 0 (-0.5): not to be told from none; 2 seeds give no")
    assert found[TOGETHER].share == 1.0


def test_three_sources_that_act_only_together_by_hand() -> None:
    """1 and -1 by parity: the mean square of all three is 8, all others are 0. A main effect is estimated by
    (MS_a - MS_ab - MS_ac + MS_abc) / 4 = 2, each pair by (MS_ab - MS_abc) / 2 = -4, the three by 8: together -4."""
    parity = np.indices((2, 2, 2)).sum(0) % 2 * 2.0 - 1
    found = components(parity, "class_order", "split", "batches")
    assert [part.variance for part in found.values()] == [2.0, 2.0, 2.0, 0.0]
    assert found[TOGETHER].remark.startswith("estimated below 0 (-4)")


SIZES = (4, 3, 5)
TRUE = {(0,): 4.0, (1,): 9.0, (2,): 1.0, (0, 1): 2.0, (0, 2): 1.0, (1, 2): 3.0, (0, 1, 2): 2.0}


def drawn(random: np.random.Generator) -> np.ndarray:
    """Results of three sources with effects of known variance, alone and together."""
    results = np.zeros(SIZES)
    for axes, variance in TRUE.items():
        shape = [size if axis in axes else 1 for axis, size in enumerate(SIZES)]
        results = results + random.normal(0, np.sqrt(variance), shape)
    return results


def test_estimates_are_unbiased_and_intervals_cover() -> None:
    """An additive model, whose remainder mixes all interactions, would give other means: 1.4 where 1 is true, say."""
    random, runs = np.random.default_rng(0), 1500
    truth = np.array([4.0, 9.0, 1.0, 8.0])
    estimates, covered = np.zeros((runs, 4)), np.zeros(4)
    for run in range(runs):
        found = mean_squares(drawn(random), ["class_order", "model", "batches"])
        estimates[run] = [sum(factor * square for factor, square, _ in terms) for terms in found.values()]
        ends = np.array([interval_of(terms) for terms in found.values()])
        covered += (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    error = estimates.std(0) / np.sqrt(runs)
    assert list(found) == ["class_order", "model", "batches", TOGETHER]
    assert np.all(np.abs(estimates.mean(0) - truth) < 4 * error)
    assert np.all(covered / runs > 0.94), covered / runs


def test_an_interval_of_two_mean_squares_as_by_hand() -> None:
    """L and U of Ting et al. 1990 for S1 - S2 with 5 and 10 degrees of freedom, from tables of F and chi-squared.

    F(.025; 5, 10) = 4.2361, F(.025; 10, 5) = 6.6192; chi-squared/df: 2.5665 and .16624 of 5, 2.0483 and .32470 of 10.
    """
    above, below = (1 - 1 / 2.5665, 1 - 1 / 2.0483), (1 / 0.16624 - 1, 1 / 0.32470 - 1)
    cross = ((4.2361 - 1) ** 2 - (above[0] * 4.2361) ** 2 - below[1] ** 2) / 4.2361
    low = 80 - np.sqrt((above[0] * 100) ** 2 + (below[1] * 20) ** 2 + cross * 100 * 20)
    cross = ((6.6192 - 1) ** 2 - (above[1] * 6.6192) ** 2 - below[0] ** 2) / 6.6192
    high = 80 + np.sqrt((below[0] * 100) ** 2 + (above[1] * 20) ** 2 + cross * 100 * 20)
    assert interval_of([(1.0, 100.0, 5), (-1.0, 20.0, 10)]) == pytest.approx((low, high), rel=1e-3)


def test_what_is_no_crossed_design_is_refused() -> None:
    given = trials(BY_HAND, "model", "batches")
    with pytest.raises(StoreError, match=r"2 model x 2 batches; 1 of 4 are missing.*crossed: true"):
        variance_components(given[:3])
    with pytest.raises(StoreError, match=r"need a source with two seeds \(got one run\)"):
        variance_components(given[:1])
    with pytest.raises(StoreError, match=r"got 8 trials with 4 combinations of seeds, of 2 methods"):
        variance_components([*given, *({**trial, "alias": "si"} for trial in given)])
    with pytest.raises(StoreError, match="1 of 4 are missing"):
        variance_components([*given[:3], {**given[3], "average_accuracy": None}])
