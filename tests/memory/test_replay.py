"""The replay buffer in this process: draws are uniform, independent and in order, and leave out what they should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import permutations
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from raycl.memory import draws
from raycl.memory.buffer import everything
from raycl.memory.draws import distinct
from raycl.memory.local import LocalStorage
from raycl.memory.replay import ReplayMemory
from raycl.spec.memory import MemoryConfig
from raycl.trial.checkpoint import decode, encode

Draw = Callable[[int, int, torch.Generator], Tensor]


def memory(rows: int = 90, capacity: int = 90, seed: int = 0) -> ReplayMemory:
    """Rows numbered by their only pixel, of tasks 0, 1, 2 in turn and classes 0 to 8 in turn."""
    buffer = ReplayMemory(MemoryConfig(capacity=capacity), "ring", torch.Generator().manual_seed(seed), LocalStorage())
    number = torch.arange(rows)
    buffer.add({"image": number.to(torch.uint8).view(-1, 1, 1, 1), "label": number % 9, "task": number % 3})
    return buffer


def numbers(table: dict[str, Tensor]) -> list[int]:
    return table["image"].flatten().tolist() if len(table["label"]) else []


# -- uniform choices -----------------------------------------------------------------------------------------------


def chi_square(draw: Draw, runs: int = 12_000) -> float:
    """Of all ordered choices of 2 out of 5: 19 degrees of freedom."""
    random = torch.Generator().manual_seed(0)
    counts = Counter(tuple(draw(5, 2, random).tolist()) for _ in range(runs))
    expected = runs / 20
    other = sum(count for choice, count in counts.items() if len(set(choice)) < 2)
    return other + sum((counts[choice] - expected) ** 2 / expected for choice in permutations(range(5), 2))


@pytest.mark.parametrize("sparse", [1, 64], ids=["refusing repetitions", "shuffling"])
def test_every_ordered_choice_is_equally_likely(sparse: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "SPARSE", sparse)
    assert chi_square(distinct) < 43.8  # 0.1 % of chi-square with 19 dof


def with_repetition(rows: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(rows, (count,), generator=generator)


def by_number(rows: int, count: int, generator: torch.Generator) -> Tensor:
    """The choice is uniform, but not its order: the first of two draws in one would hold the lower slots."""
    return distinct(rows, count, generator).sort().values


def neighbours(rows: int, count: int, generator: torch.Generator) -> Tensor:
    return (torch.randint(rows, (), generator=generator) + torch.arange(count)) % rows


@pytest.mark.parametrize("wrong", [with_repetition, by_number, neighbours])
def test_the_statistic_finds_wrong_choices(wrong: Draw) -> None:
    assert chi_square(wrong, runs=2_000) > 200


@pytest.mark.parametrize(("rows", "count"), [(0, 5), (3, 5), (5, 5), (10_000, 1), (10_000, 150), (9_601, 150)])
def test_so_many_distinct_numbers_as_there_are(rows: int, count: int) -> None:
    found = distinct(rows, count, torch.Generator().manual_seed(0))
    assert found.dtype == torch.int64
    assert len(found.unique()) == len(found) == min(rows, count)
    assert all(0 <= number < rows for number in found.tolist())


def test_a_draw_from_a_large_memory_asks_for_few_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    randint, randperm = torch.randint, torch.randperm
    monkeypatch.setattr(torch, "randint", lambda high, size, **more: asked.append(*size) or randint(high, size, **more))
    monkeypatch.setattr(torch, "randperm", lambda size, **more: asked.append(size) or randperm(size, **more))
    distinct(100_000, 100, torch.Generator().manual_seed(0))
    assert sum(asked) < 300


# -- several draws, and rows left out ------------------------------------------------------------------------------


def check_independent(draw: Callable[[ReplayMemory], tuple[list[int], list[int]]]) -> None:
    """Two draws of 9 of 90 share 0.9 rows on average, as independent draws do; 300 memories."""
    shared = [len(set(one) & set(other)) for one, other in (draw(memory(seed=seed)) for seed in range(300))]
    assert np.mean(shared) == pytest.approx(0.9, abs=0.2)


def in_line(buffer: ReplayMemory) -> tuple[list[int], list[int]]:
    buffer.request(9)
    buffer.request(9)
    return numbers(buffer.sample(9)), numbers(buffer.sample(9))


def halves(buffer: ReplayMemory) -> tuple[list[int], list[int]]:
    """The mutant: one draw of twice the size, cut in two."""
    both = numbers(buffer.sample(18))
    return both[:9], both[9:]


def test_draws_in_line_are_independent() -> None:
    check_independent(in_line)


def test_the_check_finds_one_draw_cut_in_two() -> None:
    with pytest.raises(AssertionError):
        check_independent(halves)


def test_draws_come_in_the_order_of_their_requests() -> None:
    one, other = memory(), memory()
    for count, task in ((4, None), (6, 1), (4, None)):
        one.request(count, task)
    expected = [other.sample(count, task) for count, task in ((4, None), (6, 1), (4, None))]
    found = [one.sample(4), one.sample(6, 1), one.sample(4)]
    assert [numbers(table) for table in found] == [numbers(table) for table in expected]


def test_a_question_that_fits_no_request_drops_all_of_them() -> None:
    buffer = memory()
    buffer.request(4)
    buffer.request(5)
    assert len(numbers(buffer.sample(5))) == 5
    assert not buffer.state_dict()["draws"]


def test_rows_of_a_task_are_left_out() -> None:
    buffer = memory()
    for _ in range(20):
        buffer.request(30, without_task=2)
        drawn = buffer.sample(30, without_task=2)
        assert sorted(drawn["task"].unique().tolist()) == [0, 1]
        assert len(set(numbers(drawn))) == 30
        assert buffer.sampled.tolist() == numbers(drawn)
    assert len(numbers(buffer.sample(99, without_task=0))) == 60
    assert sorted(numbers(buffer.sample(99, without_task=5))) == list(range(90))


def test_a_request_with_other_rows_left_out_is_not_handed_out() -> None:
    buffer = memory()
    buffer.request(60, without_task=2)
    assert sorted(buffer.sample(60, without_task=1)["task"].unique().tolist()) == [0, 2]


def test_rows_of_some_classes_are_left_out() -> None:
    drawn = memory().sample(99, without_labels=torch.tensor([4, 1, 1]))
    assert sorted(drawn["label"].unique().tolist()) == [0, 2, 3, 5, 6, 7, 8]
    assert len(numbers(drawn)) == 70


def test_nothing_is_eligible() -> None:
    buffer = memory()
    buffer.write(torch.arange(90), {"score": torch.zeros(90)})
    drawn = buffer.sample(5, without_labels=torch.arange(9))
    assert numbers(drawn) == []
    assert drawn["score"].shape == (0,)


def test_outstanding_draws_are_part_of_the_state() -> None:
    buffer, twin = memory(), memory(seed=1)
    buffer.request(7)
    buffer.request(5, without_task=0)
    later = torch.full((90, 1, 1, 1), 200, dtype=torch.uint8)
    buffer.add({"image": later, "label": buffer.labels, "task": buffer.tasks})
    twin.load_state_dict(decode(encode(buffer.state_dict())))
    for count, task in ((7, None), (5, 0), (6, 1)):
        ours, theirs = buffer.sample(count, task), twin.sample(count, task)
        assert numbers(ours) == numbers(theirs)
        assert buffer.sampled.tolist() == twin.sampled.tolist()
        assert (200 in numbers(ours)) == (count == 6), "requested rows are older than the contents"


def check_requested_rows() -> None:
    """A row that is overwritten between request and draw comes as it was, with its label and task."""
    buffer = memory()
    buffer.request(90)
    other = {"image": torch.full((90, 1, 1, 1), 200, dtype=torch.uint8)}
    buffer.write(torch.arange(90), {**other, "label": torch.full((90,), 77), "task": torch.full((90,), 5)})
    drawn = buffer.sample(90)
    number = torch.tensor(numbers(drawn))
    assert sorted(number.tolist()) == list(range(90))
    assert torch.equal(drawn["label"], number % 9)
    assert torch.equal(drawn["task"], number % 3)
    assert set(buffer.sample(9)["label"].tolist()) == {77}, "the next draw has them as they are"


def test_rows_are_handed_out_as_they_were_when_they_were_requested() -> None:
    check_requested_rows()


@pytest.mark.parametrize("column", ["label", "task"])
def test_the_check_finds_a_column_as_it_is_now(column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: pixels as requested under labels, or tasks, as they are now."""
    sample = ReplayMemory.sample

    def now(self: ReplayMemory, *asked: Any, **more: Any) -> dict[str, Tensor]:
        table = sample(self, *asked, **more)
        return {**table, column: {"label": self.labels, "task": self.tasks}[column][self.sampled]}

    monkeypatch.setattr(ReplayMemory, "sample", now)
    with pytest.raises(AssertionError):
        check_requested_rows()


@pytest.mark.parametrize("unit", ["total", "task"])
def test_trimmed_rows_close_ranks_and_go_on(unit: Literal["total", "task"]) -> None:
    """Of two tasks with three classes each, offered in turn, a capacity of 11 leaves 1 or 3 rows a class."""
    config = MemoryConfig(capacity=11, unit=unit)
    buffer = ReplayMemory(config, "ranked", torch.Generator().manual_seed(0), LocalStorage())
    for number in range(6):
        rows = torch.arange(5) + 10 * number
        label = torch.full((5,), number)
        column = {"image": rows.to(torch.uint8).view(-1, 1, 1, 1), "half": rows / 2, "label": label}
        buffer.add({**column, "task": label % 2})
    before, held = len(buffer), everything(buffer)
    buffer.request(before)
    buffer.trim()
    each = 1 if unit == "total" else 3
    best = [10 * number + rank for number in range(6) for rank in range(each)]
    order = [number for number in numbers(held) if number in best]
    assert sorted(order) == best
    assert len(order) == len(buffer) < before
    for after in (everything(buffer), everything(reloaded(buffer, config))):
        assert numbers(after) == order
        assert (after["half"] * 2).tolist() == order
        assert after["label"].tolist() == [number // 10 for number in order]
        assert after["task"].tolist() == [number // 10 % 2 for number in order]
    assert sorted(numbers(buffer.sample(before))) == sorted(numbers(held)), "as they were when it was requested"
    buffer.add({name: column[:1] for name, column in held.items()})
    assert numbers(everything(buffer)) == order, "every class is full"


def reloaded(buffer: ReplayMemory, config: MemoryConfig) -> ReplayMemory:
    """Another buffer that goes on from the checkpoint of this one."""
    other = ReplayMemory(config, "ranked", torch.Generator(), LocalStorage())
    other.load_state_dict(decode(encode(buffer.state_dict())))
    return other


def test_bytes_count_every_column() -> None:
    buffer = memory()
    assert buffer.bytes == 90 * (1 + 8 + 8)
    buffer.write(torch.arange(3), {"logits": torch.zeros(3, 10)})
    assert buffer.bytes == 90 * (1 + 8 + 8 + 40)
