"""Ownership of weights: shares, ranking within the task, what a task sees; and entries that nothing moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.learning.ownership import MAX_TASKS, FrozenEntries, Ownership

SHAPES = {"small": (7, 9), "large": (40, 31)}


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


class RanksEveryEntry(Ownership):
    """A mutant: the ranking is over all entries of a layer, not over the task's own."""

    def prune(self, weights: Mapping[str, Tensor], task: int, fraction: float) -> None:
        for name, owner in self.owner.items():
            order = weights[name].flatten().abs().argsort(stable=True)
            freed = order[: round(fraction * int(self.owned(name, task).sum()))]
            owner.view(-1)[freed] = 0
            weights[name].view(-1)[freed] = 0


def check_shares(kind: type[Ownership], fraction: float = 0.6) -> None:
    """Task t (from 1) owns (1 - p) p^(t - 1) of each layer, give or take one weight for each rounding."""
    live = weights()
    ownership = kind(live)
    for task in range(4):
        ownership.claim(task)
        generator = torch.Generator().manual_seed(task + 1)
        for name, weight in live.items():
            fresh = torch.randn(weight.shape, generator=generator)
            weight.copy_(torch.where(ownership.owned(name, task), fresh, weight))
        ownership.prune(live, task, fraction)
    for name, weight in live.items():
        for task in range(4):
            share = (1 - fraction) * fraction**task
            assert abs(int(ownership.owned(name, task).sum()) - share * weight.numel()) <= 1.5


def test_each_task_owns_its_share() -> None:
    check_shares(Ownership)


def test_a_ranking_over_all_entries_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_shares(RanksEveryEntry)


def test_the_smallest_go_and_others_stay() -> None:
    live = weights()
    before = {name: weight.clone() for name, weight in live.items()}
    ownership = Ownership(live)
    ownership.claim(0)
    ownership.prune(live, 0, 0.5)
    kept = ownership.owned("large", 0)
    assert torch.equal(live["large"][kept], before["large"][kept])
    assert not live["large"][~kept].any()
    assert before["large"][kept].abs().min() >= before["large"][~kept].abs().max()


def test_equal_weights_are_pruned_to_the_exact_number() -> None:
    live = {"w": torch.ones(10)}
    ownership = Ownership(live)
    ownership.claim(0)
    ownership.prune(live, 0, 0.3)
    assert int(live["w"].sum()) == 7


def test_nothing_to_prune_is_no_error() -> None:
    live = {"w": torch.ones(3)}
    ownership = Ownership(live)
    ownership.claim(0)
    ownership.prune(live, 0, 0.1)
    ownership.claim(1)
    ownership.prune(live, 1, 0.9)
    assert ownership.owned("w", 0).all()


def test_a_task_sees_its_own_and_earlier_weights_and_destroys_none() -> None:
    live = {"w": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    ownership = Ownership(live)
    ownership.owner["w"] = torch.tensor([1, 2, 3, 0], dtype=torch.uint8)
    assert ownership.visible(live, 0)["w"].tolist() == [1, 0, 0, 0]
    assert ownership.visible(live, 1)["w"].tolist() == [1, 2, 0, 0]
    assert live["w"].tolist() == [1, 2, 3, 4]


def test_owners_are_charged_as_bits() -> None:
    ownership = Ownership({"w": torch.zeros(9)})
    assert [ownership.packed_bytes(tasks) for tasks in (1, 2, 3, 4, 7, 8)] == [2, 3, 3, 4, 4, 5]


def test_too_many_tasks_are_refused() -> None:
    ownership = Ownership({"w": torch.zeros(1)})
    ownership.claim(MAX_TASKS - 1)
    assert ownership.owned("w", MAX_TASKS - 1).all()
    with pytest.raises(MethodError, match="at most 255 tasks"):
        ownership.claim(MAX_TASKS)


OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_frozen_entries_stay_whatever_the_optimizer(optimizer: str) -> None:
    parameter = nn.Parameter(torch.randn(20, generator=torch.Generator().manual_seed(0)))
    update = OPTIMIZERS[optimizer]([parameter])

    def learn(entries: FrozenEntries) -> None:
        parameter.grad = torch.ones_like(parameter)
        entries.zero_gradients()
        update.step()
        entries.restore()

    learn(FrozenEntries({}, {}))  # momentum of an earlier task
    before, mask = parameter.detach().clone(), torch.arange(20) < 10
    entries = FrozenEntries({"w": parameter}, {"w": mask})
    for _ in range(3):
        learn(entries)
    assert torch.equal(parameter[mask], before[mask])
    assert (parameter[~mask] != before[~mask]).all()


def test_frozen_entries_take_no_part_in_clipping() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    entries = FrozenEntries({"w": parameter}, {"w": torch.tensor([True, False])})
    parameter.grad = torch.tensor([1e6, 1.0])
    entries.zero_gradients()
    assert parameter.grad.tolist() == [0.0, 1.0]
