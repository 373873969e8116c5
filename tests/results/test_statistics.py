"""Intervals, paired comparisons and corrections against hand-worked figures; what is not defined stays so."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from raycl.results.statistics import Difference, Interval, deviation, expected_best, half_width, holm


def test_an_interval_by_hand() -> None:
    """Deviation 1, and Student's t of two degrees of freedom is 4.302653 at 97.5 %."""
    found = Interval.of([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.n) == (2.0, 3)
    assert found.margin == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.7062), (3, 4.30265), (5, 2.77645), (10, 2.26216)])
def test_half_widths_by_the_table_of_student_s_t(n: int, quantile: float) -> None:
    assert half_width(2.0, n) == pytest.approx(2 * quantile / math.sqrt(n), rel=1e-5)


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5, 0.5], [0.1 + 0.2, 0.3, 0.3], [0.0, 0.0]])
def test_one_value_and_equal_values_have_no_interval(values: list[float]) -> None:
    """0.1 + 0.2 differs from 0.3 in the last bit: a width of 1e-17 would be a certainty that nobody has."""
    found = Interval.of(values)
    assert found is not None
    assert found.mean == pytest.approx(values[0])
    assert math.isnan(found.margin)
    assert math.isnan(deviation(values))
    assert math.isnan(half_width(1.0, 1))
    assert Interval.of([]) is None


def test_a_paired_comparison_by_hand() -> None:
    """Differences 1, 2, 3: t = 2 sqrt(3), and with two degrees of freedom p = 1 - t / sqrt(2 + t^2)."""
    found = Difference.of({10: 5.0, 11: 9.0, 12: 2.0}, {12: -1.0, 10: 4.0, 11: 7.0})
    assert found is not None
    t = 2 * math.sqrt(3)
    assert (found.interval.mean, found.interval.n) == (2.0, 3)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert Difference.of({10: 4.0, 11: 7.0, 12: -1.0}, {10: 5.0, 11: 9.0, 12: 2.0}).p == pytest.approx(found.p)  # type: ignore[union-attr]


def test_only_the_seeds_that_both_have_are_paired() -> None:
    found = Difference.of({1: 0.5, 2: 0.7, 9: 0.0}, {2: 0.4, 1: 0.4, 8: 1.0})
    assert found is not None
    assert (found.interval.n, found.interval.mean) == (2, pytest.approx(0.2))
    assert Difference.of({1: 0.5}, {2: 0.5}) is None


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_differences_that_are_all_equal_have_no_p(shift: float) -> None:
    """0.9 - 0.6 and 0.93 - 0.63 differ in the last bits; a p of 1e-30 would be made of them alone."""
    values = {1: 0.6, 2: 0.63, 3: 0.69}
    found = Difference.of({seed: value + shift for seed, value in values.items()}, values)
    assert found is not None
    assert found.interval.mean == pytest.approx(shift)
    assert math.isnan(found.p)


def test_holm_by_hand() -> None:
    """0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which may not fall below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_is_not_defined_counts_in_holm_s_family() -> None:
    found = holm([0.01, math.nan, 0.03])
    assert math.isnan(found[1])
    assert [found[0], found[2]] == pytest.approx([0.03, 0.06])


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0], [1.0, 1.0, 2.0], [0.4], [0.2, 0.9, 0.9, 0.1]])
def test_the_expected_best_is_the_mean_over_all_draws_with_replacement(values: list[float]) -> None:
    found = expected_best(values)
    for n in range(1, len(values) + 1):
        draws = list(itertools.product(values, repeat=n))
        assert found[n - 1] == pytest.approx(sum(map(max, draws)) / len(draws))
    assert expected_best([]).shape == (0,)
    assert np.all(np.diff(found) >= 0)
