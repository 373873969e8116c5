"""Distributions: their ends, what they contain, and which are refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycl.spec.distribution import DistributionError
from raycl.spec.space import Choice, LogRandInt, LogUniform, QUniform, RandInt, Uniform, find
from raycl.spec.sweep_options import SearchConfig
from raycl.sweep.suggestions import Outcome, Suggester


@pytest.mark.parametrize(
    ("data", "kind", "inside", "outside"),
    [
        ({"uniform": [0.5, 2]}, Uniform, [0.5, 1, 2.0], [0.4, 2.1, True, "1"]),
        ({"loguniform": [1e-4, 1]}, LogUniform, [1e-4, 0.1], [0, 2]),
        ({"quniform": [0, 1, 0.25]}, QUniform, [0.0, 0.25, 1], [0.3, 1.25]),
        ({"randint": [8, 129]}, RandInt, [8, 128], [7, 129, 8.5]),
        ({"lograndint": [1, 10]}, LogRandInt, [1, 9], [0, 10]),
        ({"choice": [200, "a", True, 0.5]}, Choice, [200, "a", True, 0.5], [1, "b"]),
    ],
)
def test_what_is_drawn(data: dict[str, Any], kind: type, inside: list[Any], outside: list[Any]) -> None:
    distribution = find(data)
    assert type(distribution) is kind
    assert all(distribution.contains(value) for value in inside)
    assert not any(distribution.contains(value) for value in outside)
    assert all(distribution.contains(end) for _, end in distribution.ends)
    assert distribution.contains(distribution.middle)
    assert find(distribution.to_data()) == distribution


def test_the_upper_end_of_whole_numbers_is_excluded_as_in_ray_tune() -> None:
    assert [end for _, end in find({"randint": [8, 129]}).ends] == [8, 128]  # type: ignore[union-attr]


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_middle_lies_inside(low: int, width: int) -> None:
    for word in ("randint", "lograndint", "uniform", "loguniform"):
        distribution = find({word: [low, low + width]})
        assert distribution is not None
        assert distribution.contains(distribution.middle)


def test_choices_of_lists_and_null_are_told_by_their_text() -> None:
    choice = find({"choice": [[100], [400, 400], None]})
    assert isinstance(choice, Choice)
    assert choice.choices == ("[100]", "[400,400]", "null")
    assert choice.decode("[400,400]") == [400, 400]
    assert choice.decode("null") is None


@pytest.mark.parametrize(
    ("data", "rule", "at"),
    [
        ({"uniform": [1, 0]}, "low must lie below high", ("uniform",)),
        ({"uniform": [1, 1]}, "low must lie below high", ("uniform",)),
        ({"uniform": [1]}, "must be a list [low, high]", ("uniform",)),
        ({"uniform": 3}, "must be a list [low, high]", ("uniform",)),
        ({"uniform": ["a", 1]}, "must be a finite number", ("uniform", 0)),
        ({"uniform": [0, float("inf")]}, "must be a finite number", ("uniform", 1)),
        ({"uniform": [False, 1]}, "must be a finite number", ("uniform", 0)),
        ({"loguniform": [0, 1]}, "a logarithmic range must begin above 0", ("loguniform", 0)),
        ({"lograndint": [0, 5]}, "a logarithmic range must begin above 0", ("lograndint", 0)),
        ({"randint": [1, 2.5]}, "must be a whole number", ("randint", 1)),
        ({"quniform": [0, 1, 0.3]}, "both ends must be multiples of q = 0.3", ("quniform", 1)),
        ({"quniform": [0, 1, 0]}, "q must be above 0", ("quniform", 2)),
        ({"choice": []}, "must hold at least one value", ("choice",)),
        ({"choice": [1, 2, 1]}, "every choice may stand once", ("choice", 2)),
        ({"logunifrom": [1, 2]}, "unknown distribution 'logunifrom'; did you mean 'loguniform'?", ()),
    ],
)
def test_refused(data: dict[str, Any], rule: str, at: tuple[str | int, ...]) -> None:
    with pytest.raises(DistributionError) as error:
        find(data)
    assert error.value.rule.startswith(rule)
    assert error.value.at == at


@pytest.mark.parametrize("data", [3, "uniform", [1, 2], {}, {"a": 1, "uniform": [0, 1]}, {"layers": [1, 2]}])
def test_ordinary_values_are_no_distributions(data: Any) -> None:
    assert find(data) is None


STEPS = st.sampled_from(["0.1", "0.25", "0.3", "1", "7", "0.001", "1e-5", "2.5e3"])


def quniform(low: int, count: int, step: str) -> QUniform:
    """``count`` steps up from the ``low``-th multiple of a step, both ends written as decimals."""
    ends = [float(Decimal(step) * multiple) for multiple in (low, low + count)]
    found = find({"quniform": [*ends, float(step)]})
    assert isinstance(found, QUniform)
    return found


def drawn(suggester: Suggester, seen: Sequence[Outcome] = (), index: int = 9) -> float:
    """The one value of a suggestion, beside others that are unknown to it."""
    (value,) = suggester.draw(index, seen).point.values()
    return float(value)


@settings(deadline=None, max_examples=40)
@given(st.integers(-300, 300), st.integers(1, 60), STEPS, st.integers(0, 2**31))
def test_draws_of_quniform_are_multiples_within_its_ends(low: int, count: int, step: str, seed: int) -> None:
    """Of Optuna itself, at random and by TPE, which is shown the ends."""
    distribution = quniform(low, count, step)
    space = {"penalty": distribution}
    seen = [Outcome({"penalty": end}, "finished", index / 9) for index, (_, end) in enumerate(distribution.ends)]
    for outcomes in ([], seen * 3):
        value = drawn(Suggester(space, SearchConfig(startup=5, trials=2, seed=seed)), outcomes)
        assert distribution.contains(value)
        nearest = Decimal(step) * round(Decimal(value) / Decimal(step))
        assert abs(Decimal(value) - nearest) <= Decimal(
            4 * math.ulp(max(map(abs, (distribution.low, distribution.high))))
        )
        assert low <= round(Decimal(value) / Decimal(step)) <= low + count


@settings(deadline=None, max_examples=30)
@given(st.integers(-5, 5), st.integers(1, 4), STEPS)
def test_quniform_draws_each_of_its_multiples(low: int, count: int, step: str) -> None:
    """Both ends among them: Optuna gives up the upper one where it is no whole number of steps away in decimals."""
    space = {"penalty": quniform(low, count, step)}
    search = SearchConfig(sampler="random", trials=1)
    found = {drawn(Suggester(space, search), index=index) for index in range(40 * count)}
    assert len(found) == count + 1


@pytest.mark.parametrize(
    ("data", "place"),
    [([1e-10, 0.5, 0.1], 0), ([1e-12, 1, 1], 0), ([0, 1 + 1e-10, 0.25], 1), ([0.1, 0.35, 0.1], 1)],
)
def test_ends_that_no_multiple_reaches_are_refused(data: list[float], place: int) -> None:
    with pytest.raises(DistributionError, match="both ends must be multiples") as error:
        find({"quniform": data})
    assert error.value.at == ("quniform", place)


@pytest.mark.filterwarnings("ignore:The distribution is specified")
def test_mutant_the_former_tolerance_draws_what_is_no_multiple() -> None:
    """An absolute tolerance in steps took 1e-10 for a multiple of 0.1, and draws began there."""
    low, high, q = 1e-10, 0.5, 0.1
    assert math.isclose(low / q, round(low / q), rel_tol=0, abs_tol=1e-9)
    former = QUniform(low, high, q)
    suggester = Suggester({"x": former}, SearchConfig(sampler="random", trials=1))
    found = {drawn(suggester, index=index) for index in range(20)}
    assert max(found) < 0.41, "0.5 is never drawn"
    assert not any(math.isclose(value, round(value / q) * q, rel_tol=1e-12) for value in found)


def test_steps_are_limited() -> None:
    with pytest.raises(DistributionError, match="q must be at least"):
        find({"quniform": [0, 1e6, 1e-6]})
