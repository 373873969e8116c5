"""Herding: row 23 of CONTRIBUTING's table, and what a ranking is when it is written down as the paper has it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from raycl.learning.herding import herding, unit_length

Rank = Callable[[Tensor, int], Tensor]
"""Features as a network gives them, and a count -> rows, best first."""

RANDOM_AT_TEN = 0.311
"""Distance of the mean of ten random rows from the mean of all, mean over many draws."""


def features(seed: int = 0, rows: int = 500) -> Tensor:
    """float ``[rows, 20]`` of very different lengths, which say nothing of the direction."""
    random = torch.Generator().manual_seed(seed)
    length = torch.randn(rows, 1, generator=random).mul_(1.5).exp()
    return unit_length(torch.randn(rows, 20, generator=random)) * length


def rank(raw: Tensor, count: int) -> Tensor:
    return herding(unit_length(raw), count)


def residual(raw: Tensor, rows: Tensor) -> float:
    unit = unit_length(raw)
    return float((unit.mean(0) - unit[rows].mean(0)).norm())


def without_lengths(raw: Tensor, count: int) -> Tensor:
    """The mutant: features as they are."""
    return herding(raw, count)


def without_sum(raw: Tensor, count: int) -> Tensor:
    """The mutant: the rows nearest to the mean, each on its own."""
    unit = unit_length(raw)
    return (unit - unit.mean(0)).norm(dim=1).argsort()[:count]


def with_repeats(raw: Tensor, count: int) -> Tensor:
    """The mutant: a row may be chosen again."""
    unit = unit_length(raw)
    mean = unit.mean(0)
    chosen: list[int] = []
    for place in range(count):
        best = by_definition(unit, mean, chosen, place + 1).argmin()
        chosen.append(int(best))
    return torch.tensor(chosen)


def mean_of_first_rows(raw: Tensor, count: int) -> Tensor:
    """The mutant: the mean of a few rows is followed, not that of the whole class."""
    return herding(unit_length(raw)[: 2 * count], count)


def by_definition(unit: Tensor, mean: Tensor, chosen: list[int], count: int) -> Tensor:
    """What is minimised by the choice number ``count``: algorithm 4 as it stands."""
    return (mean - (unit + unit[chosen].sum(0)) / count).norm(dim=1)


def check(ranking: Rank) -> None:
    """Means follow the mean of all, no row comes twice, and a shorter list is the beginning of a longer one."""
    distances = []
    for seed in range(5):
        raw = features(seed)
        rows = ranking(raw, 50)
        assert len(rows.unique()) == len(rows) == 50
        for count in (1, 10, 23):
            assert torch.equal(ranking(raw, count), rows[:count])
        distances.append(residual(raw, rows[:10]))
    assert max(distances) < RANDOM_AT_TEN / 3


def test_a_ranking_follows_the_mean_of_all() -> None:
    check(rank)


@pytest.mark.parametrize("wrong", [without_lengths, without_sum, mean_of_first_rows])
def test_the_check_finds_wrong_rankings(wrong: Rank) -> None:
    with pytest.raises(AssertionError):
        check(wrong)


def test_fifty_rows_are_ten_times_nearer_than_random_ones() -> None:
    random = torch.Generator().manual_seed(0)
    raw = features()
    ours = residual(raw, rank(raw, 50))
    theirs = sum(residual(raw, torch.randperm(500, generator=random)[:50]) for _ in range(50)) / 50
    assert ours < theirs / 5
    at_ten = sum(residual(raw, torch.randperm(500, generator=random)[:10]) for _ in range(200)) / 200
    assert at_ten == pytest.approx(RANDOM_AT_TEN, rel=0.05)


def check_choices(ranking: Rank) -> None:
    """Every choice is the best of the rows that are left, to rounding; after the last one nothing is left."""
    raw = features(rows=40)
    unit = unit_length(raw).double()
    chosen: list[int] = []
    for count, row in enumerate(ranking(raw, 1000).tolist(), start=1):
        distance = by_definition(unit, unit.mean(0), chosen, count)
        distance[chosen] = float("inf")
        assert distance[row] <= distance.min() + 1e-5
        chosen.append(row)
    assert sorted(chosen) == list(range(40))


def test_every_choice_is_the_nearest() -> None:
    check_choices(rank)


@pytest.mark.parametrize("wrong", [without_lengths, without_sum, with_repeats])
def test_the_check_of_choices_finds_wrong_ones(wrong: Rank) -> None:
    with pytest.raises(AssertionError):
        check_choices(wrong)


def test_rows_of_zeros_and_equal_rows_are_ranked_too() -> None:
    raw = torch.zeros(6, 3)
    raw[2:4] = torch.tensor([1.0, 2.0, 2.0])
    assert unit_length(raw).isfinite().all()
    assert sorted(rank(raw, 6).tolist()) == list(range(6))


def test_features_are_left_as_they_are() -> None:
    unit = unit_length(features())
    before = unit.clone()
    herding(unit, 20)
    assert torch.equal(unit, before)
