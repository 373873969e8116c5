"""Updates of one row: what asks for them gets them, and what cannot learn from them says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import trainer, trial

from raycl.catalog import catalog
from raycl.errors import MethodError
from raycl.memory.policies import RandomReplacement
from raycl.strategies.base import Epochs, Phase
from raycl.trial import batching
from raycl.trial import trainer as trainer_module
from raycl.trial.batching import BatchPlan
from raycl.trial.loading import RowPool


class Rows(RowPool):
    """Rows that are their own numbers."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def gather(self, index: Any, augment: bool = True) -> Any:
        return index


def sizes(rows: int, batch_size: int) -> list[int]:
    plan = BatchPlan(
        Rows(rows), rows, Phase("train", Epochs(1)), batch_size, batch_size, "size", torch.Generator().manual_seed(0)
    )
    return [len(batch) for batch, _ in plan.batches(0)]


@pytest.mark.parametrize(
    ("rows", "batch_size", "expected"),
    [
        (4, 1, [1, 1, 1, 1]),
        (1, 1, [1]),
        (1, 16, [1]),
        (5, 2, [2, 3]),
        (7, 3, [3, 4]),
        (8, 3, [3, 3, 2]),
    ],
)
def test_a_left_over_row_joins_batches_of_several_rows_only(rows: int, batch_size: int, expected: list[int]) -> None:
    assert sizes(rows, batch_size) == expected


def test_mutant_every_left_over_row_joins() -> None:
    """What was done before: the last update of four single rows had two of them."""
    former = list(torch.arange(4).split(1))
    former[-2:] = [torch.cat(former[-2:])]
    assert [len(rows) for rows in former] == [1, 1, 2] != sizes(4, 1)


ONE_ROW = {
    "a batch": ("naive", {"training": {"batch_size": 1}}),
    "a task": ("naive", {"stream": {"train_per_task": 1}}),
    "GDumb's memory": ("gdumb", {"memory": {"capacity": 1}, "options": {"passes": 1}}),
    "ExStream's rehearsal": ("exstream", {"memory": {"batch_size": 1}}),
}


@pytest.mark.parametrize("case", ONE_ROW)
def test_batch_norm_and_one_row_is_an_error_with_a_remedy(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a method declares that it needs more rows it is refused before; this is what it would come to."""
    name, blocks = ONE_ROW[case]
    monkeypatch.setattr(catalog().strategies.get(name), "needs", ())
    running = trainer(trial(name, model={"norm": "batch"}, **blocks))
    with pytest.raises(MethodError, match=f"{name}: batch norm has no statistics of one row.*use larger batches"):
        running.run_task()


def test_mutant_torch_s_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "refuse_single_row", lambda error, name: None)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        trainer(trial("naive", model={"norm": "batch"}, training={"batch_size": 1})).run_task()


def test_other_errors_stay_as_they_are() -> None:
    batching.refuse_single_row(ValueError("something else"), "naive")


def test_random_replacement_gives_every_offer_a_row_or_refuses() -> None:
    """The mutant is the rule without the refusal: capacity // i is 0 from the fourth offer on."""
    pool, generator = RandomReplacement(3), torch.Generator().manual_seed(0)
    kept = [sum(position >= 0 for position in pool.offer([0] * 5, generator)) for _ in range(3)]
    assert kept == [3, 1, 1]
    with pytest.raises(MethodError, match=r"memory.selection: random .*\(got offer 4 of 3 rows\); enlarge"):
        pool.offer([0] * 5, generator)


def test_random_replacement_of_batches_ends_with_the_remedy() -> None:
    running = trainer(trial("replay", memory={"capacity": 5, "selection": "random"}))
    with pytest.raises(MethodError, match="use reservoir"):
        running.run_task()
