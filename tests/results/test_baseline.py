"""What is compared with what, which differences are supported, and who forms a group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from raycl.results.baseline import baselines
from raycl.results.comparison import Line
from raycl.results.searched import Searched
from raycl.results.statistics import Difference, Spread, holm

SEEDS = (10, 11, 12, 13, 14)
BASE = (0.60, 0.62, 0.61, 0.63, 0.64)
NEAR = (0.61, 0.60, 0.62, 0.62, 0.63)
BELOW = (0.40, 0.43, 0.41, 0.42, 0.45)
ABOVE = (0.80, 0.81, 0.83, 0.82, 0.85)


def line(alias: str, values: Sequence[float], validation: float | None = None, variant: str = "") -> Line:
    spread = Spread.of(values)
    search = Searched({}, validation, "average_accuracy", (), 1, False, 1, 1.0, True) if validation else None
    by_seed = dict(zip(SEEDS, values, strict=False))
    metrics = {"average_accuracy": spread} if spread else {}
    return Line(variant, alias, alias, "test", metrics=metrics, by_seed=by_seed, search=search)


def p(one: Sequence[float], other: Sequence[float]) -> float:
    found = Difference.of(dict(enumerate(one)), dict(enumerate(other)))
    assert found is not None
    return found.p


def test_the_best_on_validation_data_is_the_baseline_whatever_test_data_say() -> None:
    lines = [line("first", BASE, 0.7), line("near", NEAR, 0.6), line("above", ABOVE, 0.5), line("below", BELOW)]
    found = baselines(lines)[""]
    assert (found.key, found.chosen_by, found.comparisons) == ("first", "validation", 3)
    expected = holm([p(values, BASE) for values in (NEAR, ABOVE, BELOW)])
    assert [found.against[key].p for key in ("near", "above", "below")] == pytest.approx(expected)
    assert found.group == ("first", "near")
    assert found.against["above"].difference.mean == pytest.approx(0.202)
    assert found.against["above"].apart


def test_a_difference_that_only_stands_without_the_correction_is_no_difference() -> None:
    """p is 0.03 alone, and 0.06 of two."""
    shifted = [value - shift for value, shift in zip(BASE, (0.000, 0.012, 0.006, 0.010, 0.016), strict=True)]
    assert 0.025 < p(shifted, BASE) < 0.05
    assert baselines([line("a", BASE, 0.7), line("b", shifted)])[""].group == ("a",)
    assert baselines([line("a", BASE, 0.7), line("b", shifted), line("c", NEAR)])[""].group == ("a", "b", "c")


def test_where_nothing_was_searched_all_pairs_count() -> None:
    """The best is only known by the test data, so that every pair may have been the one that is looked at."""
    lines = [line("above", ABOVE), line("base", BASE), line("near", NEAR), line("below", BELOW)]
    found = baselines(lines)[""]
    assert (found.key, found.chosen_by, found.comparisons) == ("above", "test", 6)
    pairs = [(BASE, ABOVE), (NEAR, ABOVE), (BELOW, ABOVE), (NEAR, BASE), (BELOW, BASE), (BELOW, NEAR)]
    expected = holm([p(*pair) for pair in pairs])[:3]
    assert [found.against[key].p for key in ("base", "near", "below")] == pytest.approx(expected)


def test_upper_bounds_are_no_baseline_no_member_of_the_family_and_never_bold() -> None:
    bound = replace(line("joint", BASE, 0.9), upper_bound=True)
    found = baselines([bound, line("first", BASE, 0.7), line("near", NEAR, 0.6)])[""]
    assert (found.key, found.comparisons, found.group) == ("first", 1, ("first", "near"))
    assert math.isnan(found.against["joint"].p)
    assert found.against["joint"].difference.mean == 0
    assert baselines([bound]) == {}


def test_a_named_baseline_and_one_without_figures() -> None:
    lines = [line("first", BASE, 0.7), line("near", NEAR, 0.6)]
    found = baselines(lines, "near")[""]
    assert (found.key, found.chosen_by, found.group) == ("near", "name", ("first", "near"))
    assert baselines([*lines, Line("", "naive", "naive", barred="cannot")], "naive") == {}


def test_a_baseline_for_each_variant() -> None:
    lines = [
        line("a", BASE, 0.7, "x"),
        line("b", NEAR, 0.6, "x"),
        line("b", ABOVE, 0.9, "y"),
        line("a", BELOW, 0.1, "y"),
    ]
    found = baselines(lines)
    assert {variant: one.key for variant, one in found.items()} == {"x": "x/a", "y": "y/b"}
    assert found["y"].comparisons == 1


def test_too_few_seeds_tell_nobody_apart() -> None:
    lines = [line("a", BASE[:1], 0.7), line("b", BELOW[:1], 0.6), line("c", (), 0.5), line("d", BELOW, 0.4)]
    found = baselines(lines)[""]
    assert found.group == ("a", "b", "d")
    assert found.against["d"].difference.n == 1
    assert math.isnan(found.against["b"].p)
