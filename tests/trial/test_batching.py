"""Which rows each update of a phase sees: the promises that a count of rows alone does not show."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from trial.test_loading import numbers, pixels, plan, segment

from raycl.strategies.base import Epochs, Phase, Position, Updates
from raycl.trial import loading
from raycl.trial.batching import BatchPlan
from raycl.trial.loading import Pixels

EPOCH = Phase("train", Epochs(1))


def memory_rows(made: BatchPlan) -> list[list[int]]:
    """Numbers of the memory's rows in each update."""
    return [[number for number in numbers(batch.image) if number >= 100] for batch, _ in made.batches(0)]


# -- a union of new rows and memory ------------------------------------------------------------------------------------


def test_paired_rows_are_drawn_without_replacement_and_anew_for_each_update() -> None:
    drawn = memory_rows(plan(80, EPOCH, 1, remembered=4, mix="paired"))
    assert len(drawn) == 80, "one row an update, the last one too"
    assert all(len(set(rows)) == 3 for rows in drawn), "three different rows of four"
    counts = Counter(number for rows in drawn for number in rows)
    assert set(counts) == {100, 101, 102, 103}
    assert all(41 <= count <= 79 for count in counts.values()), "60 each on average, give or take five times 3.9"
    assert len({tuple(rows) for rows in drawn}) > 4


def test_the_check_sees_paired_rows_that_come_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: rows of the memory are drawn with replacement."""

    def replaced(self: BatchPlan, index: torch.Tensor, at: Position) -> torch.Tensor:
        drawn = torch.randint(len(self.pool) - self.fresh, (self.memory_batch_size,), generator=self.generator)
        return torch.cat([index, drawn + self.fresh])

    monkeypatch.setattr(BatchPlan, "_with_memory", replaced)
    drawn = memory_rows(plan(80, EPOCH, 1, remembered=4, mix="paired"))
    assert any(len(set(rows)) < 3 for rows in drawn)


def test_a_memory_smaller_than_a_pair_is_added_whole() -> None:
    assert all(sorted(rows) == [100, 101] for rows in memory_rows(plan(12, EPOCH, 4, remembered=2, mix="paired")))


@pytest.mark.parametrize("mix", ["size", "equal", "paired"])
def test_without_a_memory_every_mix_is_the_task(mix: str) -> None:
    seen = [number for batch, _ in plan(10, EPOCH, mix=mix).batches(0) for number in numbers(batch.image)]
    assert sorted(seen) == list(range(10))


def test_equal_repeats_the_memory_until_it_is_as_large_as_the_task() -> None:
    """Repeats are whole: 10 new rows and 4 old ones are 10 and 8, since 2.5 rounds to the even 2."""
    counts = Counter(number for rows in memory_rows(plan(10, EPOCH, 4, remembered=4, mix="equal")) for number in rows)
    assert counts == dict.fromkeys((100, 101, 102, 103), 2)
    more = Counter(number for rows in memory_rows(plan(3, EPOCH, 4, remembered=6, mix="equal")) for number in rows)
    assert more == dict.fromkeys(range(100, 106), 1), "a memory larger than the task is not cut"


def test_new_rows_stand_before_those_of_the_memory_in_a_pair() -> None:
    for batch, _ in plan(12, EPOCH, 4, remembered=4, mix="paired").batches(0):
        assert batch.replayed.tolist() == [False] * 4 + [True] * 3


# -- length ------------------------------------------------------------------------------------------------------------


def test_updates_number_their_passes_and_drop_a_last_batch_that_is_not_full() -> None:
    seen = [(at.epoch, at.update, at.last, len(batch)) for batch, at in plan(10, Phase("t", Updates(5))).batches(0)]
    assert seen == [(0, 0, False, 4), (0, 1, False, 4), (1, 2, False, 4), (1, 3, False, 4), (2, 4, True, 4)]


def test_epochs_keep_a_last_batch_that_is_not_full() -> None:
    assert [len(batch) for batch, _ in plan(10, EPOCH).batches(0)] == [4, 4, 2]


def test_the_same_generator_gives_the_same_batches() -> None:
    first, again = ([numbers(b.image) for b, _ in plan(10, Phase("t", Epochs(3))).batches(0)] for _ in range(2))
    assert first == again


def test_no_updates_are_no_batches() -> None:
    assert list(plan(10, Phase("t", Updates(0))).batches(0)) == []


# -- crops -------------------------------------------------------------------------------------------------------------


def corners(made: Pixels, rows: int = 4000) -> set[tuple[int, int]]:
    """Where the top left pixel of an image of 12 x 12 comes to lie, as far as it stays in sight."""
    x = torch.zeros(rows, 1, 12, 12)
    x[:, :, 4, 4] = 1
    found = made.augment(x)[:, 0].nonzero()[:, 1:] - 4
    return {(down, right) for down, right in found.tolist()}


def test_crops_reach_every_shift_from_side_to_side() -> None:
    """Four pixels of padding are nine places in each direction, both ends included, all equally likely."""
    places = range(-4, 5)
    assert corners(pixels(augment="crop")) == {(down, right) for down in places for right in places}


def test_the_check_sees_crops_that_stop_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the far side is never reached."""
    draw = torch.randint

    def short(low: int, high: int, *rest: Any, **named: Any) -> torch.Tensor:
        return draw(low, high - 1, *rest, **named)

    monkeypatch.setattr(loading.torch, "randint", short)
    reached = corners(pixels(augment="crop"))
    assert max(down for down, _ in reached) < 4 or min(down for down, _ in reached) > -4


def test_every_row_and_direction_is_cropped_on_its_own() -> None:
    x = torch.zeros(2000, 1, 12, 12)
    x[:, :, 4, 4] = 1
    places = pixels(augment="crop").augment(x)[:, 0].nonzero()[:, 1:].double()
    assert abs(float(torch.corrcoef(places.T)[0, 1])) < 0.1
    assert np.allclose(places.mean(0), 4, atol=0.3)


def test_augmentation_is_left_out_where_rows_are_only_looked_at() -> None:
    made = segment(np.random.default_rng(0).integers(1, 255, (6, 1, 4, 4), dtype=np.uint8), list(range(6)))
    pool = loading.RowPool([made], pixels(augment="crop"))
    index = torch.arange(6)
    assert torch.equal(pool.gather(index, augment=False).x, pool.gather(index).image.float())
    assert not torch.equal(pool.gather(index).x, pool.gather(index, augment=False).x)


# -- rows that the first pass leaves over ------------------------------------------------------------------------------


def test_rows_that_the_first_pass_leaves_over_are_told_once_when_they_come() -> None:
    """Ten rows in updates of four: two are left over by the first pass, and may be by others."""
    first, late = set[int](), list[int]()
    for batch, at in plan(10, Phase("train", Updates(40))).batches(0):
        rows = numbers(batch.image)
        if at.epoch == 0:
            first |= set(rows)
            assert at.late is None
        elif at.late is not None:
            late += [row for row, comes in zip(rows, at.late.tolist(), strict=True) if comes]
    assert len(first) == 8
    assert sorted(late) == sorted(set(range(10)) - first)
