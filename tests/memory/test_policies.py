"""Selection policies: rows 10 to 12, and 23, of CONTRIBUTING's table, each with the wrong variants that must fail."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from memory.pools import MakePool, generator, held_rows

from raycl.errors import UnknownName
from raycl.memory.policies import POOLS, Balanced, ClassBalanced, Greedy, RandomReplacement, Ranked, Reservoir
from raycl.memory.selection import Selection, Unit

# -- row 10: reservoir ---------------------------------------------------------------------------------------------


class OffByOne(Reservoir):
    """j ~ U{0..n-1}."""

    def offer(self, labels: Sequence[int], generator: torch.Generator) -> list[int]:
        positions = []
        for _ in labels:
            if self._seen < self.capacity:
                position = self._seen
            else:
                position = int(torch.randint(self._seen, (), generator=generator))
            positions.append(position if position < self.capacity else -1)
            self._seen += 1
        return positions


class BatchLevel(Reservoir):
    """One n for the whole batch."""

    def offer(self, labels: Sequence[int], generator: torch.Generator) -> list[int]:
        if self._seen < self.capacity:
            return super().offer(labels, generator)
        draws = torch.randint(self._seen, (len(labels),), generator=generator).tolist()
        self._seen += len(labels)
        return [draw if draw < self.capacity else -1 for draw in draws]


class ForgetsCount(Reservoir):
    """n starts again at the second task, here after six rows."""

    def offer(self, labels: Sequence[int], generator: torch.Generator) -> list[int]:
        if self._seen == 6:
            self._seen = 0
        return super().offer(labels, generator)


def reservoir_statistics(make: MakePool, runs: int = 20_000) -> tuple[float, float]:
    """Chi-square of 12 rows in a memory of 3, corrected for sampling without replacement; share that takes row 4."""
    capacity, rows, random = 3, 12, generator()
    batches = [[0] * 3] * 4
    counts = np.zeros(rows)
    fourth = 0
    for _ in range(runs):
        pool = make(capacity)
        counts[held_rows(pool, batches, random)] += 1
        again = make(capacity)
        again.offer(batches[0], random)
        fourth += again.offer([0], random)[0] >= 0
    expected = runs * capacity / rows
    return float(((counts - expected) ** 2 / expected).sum() / (1 - capacity / rows)), fourth / runs


def test_reservoir_is_uniform() -> None:
    chi_square, fourth = reservoir_statistics(Reservoir)
    assert chi_square < 30  # 11 degrees of freedom
    assert fourth == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("wrong", [OffByOne, BatchLevel, ForgetsCount])
def test_reservoir_statistics_find_wrong_variants(wrong: MakePool) -> None:
    chi_square, fourth = reservoir_statistics(wrong, runs=2_000)
    assert chi_square > 100
    assert wrong is ForgetsCount or fourth == 1.0


# -- row 11: random replay with h = M / i ----------------------------------------------------------------------------


class ZeroBased(RandomReplacement):
    """h = M / (i - 1)."""

    def offer(self, labels: Sequence[int], generator: torch.Generator) -> list[int]:
        late = self._experiences > 0
        self._experiences -= late
        positions = super().offer(labels, generator)
        self._experiences += late
        return positions


class WithReplacement(RandomReplacement):
    """Old rows are drawn with replacement."""

    def offer(self, labels: Sequence[int], generator: torch.Generator) -> list[int]:
        positions = super().offer(labels, generator)
        if self._experiences == 1:
            return positions
        return [int(torch.randint(self._size, (), generator=generator)) if p >= 0 else -1 for p in positions]


def experience_shares(make: MakePool, seeds: int = 200) -> np.ndarray:
    """Rows of each of 10 experiences in a memory of 200: ``[seeds, 10]``."""
    shares = np.zeros((seeds, 10))
    for seed in range(seeds):
        rows = held_rows(make(200), [[0] * 300] * 10, generator(seed))
        assert len(rows) == 200
        shares[seed] = np.bincount(np.array(rows) // 300, minlength=10)
    return shares


def fair(shares: np.ndarray) -> bool:
    """Whether the mean share is M / T within three standard errors, and the last experience has exactly M / T."""
    error = 3 * shares.std(axis=0) / np.sqrt(len(shares))
    return bool((np.abs(shares.mean(axis=0) - 20)[:-1] < error[:-1]).all() and (shares[:, -1] == 20).all())


def test_random_replacement_gives_each_experience_its_share() -> None:
    assert fair(experience_shares(RandomReplacement))


@pytest.mark.parametrize("wrong", [ZeroBased, WithReplacement])
def test_shares_find_wrong_variants(wrong: MakePool) -> None:
    assert not fair(experience_shares(wrong, seeds=40))


def test_random_replacement_never_holds_fewer_rows_than_it_could() -> None:
    sizes = [7, 2, 30, 1, 50, 3]
    for seed in range(20):
        pool, random, held = RandomReplacement(40), generator(seed), set()
        for offered, count in enumerate(np.cumsum(sizes)):
            kept = [position for position in pool.offer([0] * sizes[offered], random) if position >= 0]
            assert len(set(kept)) == len(kept)
            held.update(kept)
            assert held == set(range(min(40, count)))


# -- row 12: GDumb, and class-balanced reservoir ---------------------------------------------------------------------


class EvictsAnyRow(Greedy):
    """A random row of the whole memory makes room."""

    def _evict(self, first: float, second: float) -> int:
        rows = [(label, place) for label, held in self._members.items() for place in range(len(held))]
        label, place = rows[int(first * len(rows))]
        position = self._members[label].pop(place)
        self._moved(label, len(self._members[label]) + 1, len(self._members[label]))
        return position


class KnowsAllClasses(Greedy):
    """The quota of ten classes from the start."""

    def _position(self, label: int, first: float, second: float) -> int:
        if len(self._members.get(label, ())) >= self.capacity / 10:
            return -1
        return self._insert(label, first, second)


def stays_balanced(make: MakePool, supply: Sequence[int] = (90, 40, 60, 35, 80, 50, 45, 30, 70, 55)) -> bool:
    """Whether after each class of a class-ordered stream the memory of 100 is full and its classes differ by one."""
    for seed in range(5):
        pool, random, held = make(100), generator(seed), {}
        for label, count in enumerate(supply):
            for start in range(0, count, 8):
                for position in pool.offer([label] * min(8, count - start), random):
                    if position >= 0:
                        held[position] = label
            counts = Counter(held.values())
            supplied = [counts[known] for known in range(label + 1) if supply[known] > counts[known]]
            short = [known for known in range(label + 1) if supply[known] == counts[known]]
            if len(held) != min(100, sum(supply[: label + 1])):
                return False
            if supplied and (max(supplied) - min(supplied) > 1 or any(supply[c] > max(supplied) for c in short)):
                return False
    return True


@pytest.mark.parametrize("policy", [Greedy, ClassBalanced])
def test_balanced_policies_keep_classes_equal(policy: MakePool) -> None:
    assert stays_balanced(policy)


@pytest.mark.parametrize("wrong", [EvictsAnyRow, KnowsAllClasses, Reservoir, POOLS["ring"]])
def test_balance_finds_wrong_variants(wrong: MakePool) -> None:
    assert not stays_balanced(wrong)


def test_greedy_works_with_fewer_slots_than_classes() -> None:
    held: dict[int, int] = {}
    pool = Greedy(3)
    for label in range(50):
        held |= {position: label for position in pool.offer([label] * 4, generator(label)) if position >= 0}
        assert len(set(held.values())) == min(3, label + 1)


class MissesCurrentRow(ClassBalanced):
    """Acceptance m / (n - 1): the row at hand is not counted."""

    def _position(self, label: int, first: float, second: float) -> int:
        if self._size == self.capacity:
            self._seen[label] = self._seen.get(label, 1) - 1
            position = super()._position(label, first * self._seen[label] / (self._seen[label] + 1), second)
            self._seen[label] += 1
            return position
        return super()._position(label, first, second)


def within_class_statistic(make: MakePool, runs: int) -> float:
    """Chi-square of the rows within their classes: 9 rows of one class, then two classes in turn; 22 dof."""
    labels = np.array([0] * 9 + [1, 0] * 3 + [1] * 9)
    random, counts = generator(1), np.zeros(len(labels))
    for _ in range(runs):
        rows = held_rows(make(4), [labels[:5].tolist(), labels[5:].tolist()], random)
        assert np.bincount(labels[rows]).tolist() == [2, 2]
        counts[rows] += 1
    expected = runs * 2 / 12
    return float(((counts - expected) ** 2 / expected).sum() / (1 - 2 / 12))


def test_class_balanced_keeps_a_uniform_sample_of_each_class() -> None:
    assert within_class_statistic(ClassBalanced, runs=8_000) < 48.3  # 0.1 % of chi-square with 22 dof


def test_within_class_statistic_finds_the_wrong_variant() -> None:
    assert within_class_statistic(MissesCurrentRow, runs=2_000) > 100


def operations(policy: type[Balanced], classes: int) -> float:
    """The interpreter's operations for each row that a full memory is offered, of as many new classes as it holds."""
    labels = torch.arange(6_000).remainder(classes)
    pool = policy(3_000)
    pool.offer(labels.tolist(), generator())
    more = (labels[:60] + classes).tolist()
    random, count = generator(1), 0

    def tally(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += 1
        return tally

    before = sys.gettrace()
    sys.settrace(tally)
    try:
        pool.offer(more, random)
    finally:
        sys.settrace(before)
    return count / len(more)


class Searches(ClassBalanced):
    """The mutant: the largest class is looked for among all classes."""

    def _moved(self, label: int, before: int, after: int) -> None:
        super()._moved(label, before, after)
        largest = 0
        for rows in self._members.values():
            largest = max(largest, len(rows))
        self._largest = largest


def check_cost(policy: type[Balanced]) -> None:
    """A row costs about the same for 2 and for 1,000 classes."""
    assert operations(policy, 1_000) < 1.5 * operations(policy, 2)


@pytest.mark.parametrize("policy", [ClassBalanced, Greedy, Ranked])
def test_cost_of_a_row_does_not_depend_on_the_number_of_classes(policy: type[Balanced]) -> None:
    check_cost(policy)


def test_the_cost_check_finds_a_search_through_the_classes() -> None:
    with pytest.raises(AssertionError):
        check_cost(Searches)


# -- units, batches, state -------------------------------------------------------------------------------------------


def contents(selection: Selection, labels: torch.Tensor, tasks: torch.Tensor, batch: int) -> dict[int, int]:
    """The row in each slot after all rows were offered in batches."""
    held: dict[int, int] = {}
    for start in range(0, len(labels), batch):
        kept = selection.offer(labels[start : start + batch], tasks[start : start + batch])
        held |= {slot: start + row for slot, row in kept.items()}
    assert sorted(held) == list(range(len(selection)))
    return held


@pytest.mark.parametrize("policy", ["reservoir", "class_balanced", "ring", "greedy", "ranked"])
def test_batches_are_exact_as_if_row_by_row(policy: str) -> None:
    labels = torch.randint(7, (400,), generator=generator())
    tasks = labels // 3
    one = contents(Selection(policy, 31, "total", generator()), labels, tasks, 1)
    for batch in (6, 64, 400):
        assert contents(Selection(policy, 31, "total", generator()), labels, tasks, batch) == one


def test_ring_of_a_task_holds_its_latest_rows() -> None:
    tasks = torch.arange(3).repeat_interleave(100)
    selection = Selection("ring", 8, "task", generator())
    held = contents(selection, tasks * 0, tasks, 30)
    assert sorted(held.values()) == [row for task in range(3) for row in range(100 * task + 92, 100 * task + 100)]
    assert selection.capacity == 24


@pytest.mark.parametrize("policy", list(POOLS))
@pytest.mark.parametrize("unit", ["class", "task"])
def test_capacity_counts_per_unit(policy: str, unit: Unit) -> None:
    labels = torch.arange(6).repeat_interleave(50)
    tasks = labels // 2
    selection = Selection(policy, 10, unit, generator())
    assert selection.capacity == 0
    held = contents(selection, labels, tasks, 50)
    units = (labels if unit == "class" else tasks)[list(held.values())]
    assert units.bincount().tolist() == [10] * (6 if unit == "class" else 3)
    assert selection.capacity == len(selection)


@pytest.mark.parametrize("policy", list(POOLS))
@pytest.mark.parametrize("unit", ["total", "class"])
def test_state_decides_the_future(policy: str, unit: Unit) -> None:
    labels = torch.randint(9, (300,), generator=generator())
    random = generator(3)
    first = Selection(policy, 20, unit, random)
    first.offer(labels[:123], labels[:123] // 3)
    state, twin = first.state_dict(), generator()
    twin.set_state(random.get_state())
    second = Selection(policy, 20, unit, twin)
    second.load_state_dict(state)
    for start in range(123, 300, 20):
        rows = labels[start : start + 20]
        assert first.offer(rows, rows // 3) == second.offer(rows, rows // 3)
    assert second.capacity == first.capacity


def test_unknown_policy_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'reservoir'"):
        Selection("resevoir", 10, "total", generator())
