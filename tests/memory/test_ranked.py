"""Exemplar sets of iCaRL: the first rows of each class stay; row 23 of CONTRIBUTING's table."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from memory.pools import MakePool, generator

from raycl.memory.policies import POOLS, ClassBalanced, Greedy, Ranked
from raycl.memory.selection import Selection

# -- row 23: exemplar sets of iCaRL ----------------------------------------------------------------------------------

SUPPLY = (30, 50, 3, 40, 25, 60, 33, 20)
"""Rows of each class; one class has fewer than its quota will ever be."""


def keeps_best_rows(make: MakePool, batch: int = 7) -> bool:
    """Whether, with two classes a time, a memory of 47 holds the first 47 // c rows of c classes, and no others."""
    pool, random = make(47), generator()
    held: dict[int, tuple[int, int]] = {}
    for last in range(1, len(SUPPLY), 2):
        rows = [(label, rank) for label in (last - 1, last) for rank in range(SUPPLY[label])]
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            for row, position in zip(part, pool.offer([label for label, _ in part], random), strict=True):
                if position >= 0:
                    held[position] = row
            if len(held) > 47:
                return False
        held = dict(enumerate(held[position] for position in pool.trim(len(held))))
        quota = 47 // (last + 1)
        best = {(label, rank) for label in range(last + 1) for rank in range(min(quota, SUPPLY[label]))}
        if set(held.values()) != best:
            return False
    return True


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_ranked_keeps_the_first_rows_of_each_class(batch: int) -> None:
    assert keeps_best_rows(Ranked, batch)


class KeepsTails(Ranked):
    """The best row gives way."""

    def _evict(self, first: float, second: float) -> int:
        self._members[self._by_count[self._largest][-1]].reverse()
        return super()._evict(first, second)


class NeverDrops(Ranked):
    """Rows stay while nobody needs their place, also at the end of a task."""

    def trim(self, size: int) -> Sequence[int]:
        return range(size)


class RoundsUp(Ranked):
    """m = ceil(K / c)."""

    def _quota(self, classes: int) -> int:
        return -(-self.capacity // max(1, classes))


@pytest.mark.parametrize("wrong", [KeepsTails, NeverDrops, RoundsUp, Greedy, ClassBalanced])
def test_the_check_of_ranks_finds_wrong_variants(wrong: MakePool) -> None:
    assert not keeps_best_rows(wrong)


def test_trimming_changes_nothing_where_nothing_is_over() -> None:
    for policy in POOLS:
        selection = Selection(policy, 12, "total", generator())
        labels = torch.arange(3).repeat_interleave(10)
        for part in labels.split(4):
            selection.offer(part, part)
        before = selection.state_dict()
        assert selection.trim().tolist() == list(range(12))
        assert str(selection.state_dict()) == str(before)


def test_trimming_an_empty_memory() -> None:
    selection = Selection("ranked", 12, "total", generator())
    assert selection.trim().tolist() == []
    selection.offer(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    assert selection.trim().tolist() == []
