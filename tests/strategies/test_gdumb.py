"""GDumb on digits: a balanced memory within its capacity, and a network that knows nothing but that memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import finish, trainer, trial
from torch import Tensor, nn

from raycl.matrix import AccuracyMatrix
from raycl.memory.buffer import Table
from raycl.strategies.gdumb import GDumb, warm_restarts
from raycl.trial.trainer import Trainer

CAPACITY = 41


def made(scenario: str = "class", *, passes: int = 2, **blocks: Any) -> Trainer:
    memory = {"capacity": CAPACITY}
    return trainer(trial("gdumb", scenario, **{"memory": memory, "options": {"passes": passes}, **blocks}))


def method(running: Trainer) -> GDumb:
    assert isinstance(running.strategy, GDumb)
    return running.strategy


def values(running: Trainer) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in method(running).network.backbone.parameters()]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


def test_classes_differ_by_at_most_one_and_the_memory_never_overflows() -> None:
    running = made(stream={"tasks": 5})
    memory = method(running).memory
    lengths: list[int] = []
    add = memory.add

    def watched(rows: Table) -> None:
        add(rows)
        lengths.append(len(memory))

    memory.add = watched  # type: ignore[method-assign]
    while not running.done:
        running.run_task()
        counts = torch.bincount(memory.labels, minlength=2 * running.next_task)
        assert len(counts) == 2 * running.next_task
        assert int(counts.max() - counts.min()) <= 1
    assert max(lengths) == CAPACITY


def test_the_balance_check_fails_on_a_memory_of_the_latest_rows() -> None:
    running = made(memory={"capacity": CAPACITY, "selection": "ring"}, stream={"tasks": 5})
    finish(running)
    counts = torch.bincount(method(running).memory.labels, minlength=10)
    assert int(counts.max() - counts.min()) > 1


def starts(running: Trainer) -> list[tuple[list[Tensor], list[Tensor]]]:
    """For each task the backbone at the end of the task before and at the first update of the fit."""
    strategy, pairs = method(running), []
    real = strategy.step

    def watched(batch: Any, at: Any) -> Any:
        if at.phase == "fit" and at.update == 0 and at.epoch == 0:
            pairs.append((before, values(running)))
        return real(batch, at)

    strategy.step = watched  # type: ignore[method-assign]
    while not running.done:
        before = values(running)
        running.run_task()
    return pairs


def fresh(pairs: list[tuple[list[Tensor], list[Tensor]]]) -> bool:
    return len(pairs) == 3 and not any(equal(before, start) for before, start in pairs)


def test_the_network_is_new_at_every_task() -> None:
    pairs = starts(made())
    assert fresh(pairs)
    bound = 1 / 8  # 64 inputs: what an untrained first layer cannot exceed
    assert all(float(start[0].abs().max()) <= bound for _, start in pairs)


def test_the_check_fails_on_a_warm_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GDumb, "_renew", lambda self: None)
    assert not fresh(starts(made()))


def test_nothing_is_learned_while_the_stream_passes() -> None:
    running = made()
    strategy = method(running)
    learned: list[bool] = []
    real = strategy._collect

    def watched(batch: Any, at: Any) -> Any:
        before = values(running)
        losses = real(batch, at)
        learned.append(not equal(before, values(running)))
        return losses

    strategy._collect = watched  # type: ignore[method-assign]
    running.run_task()
    assert learned
    assert not any(learned)


def test_it_fits_rows_of_the_memory_only_in_its_own_batches() -> None:
    running = made(options={"passes": 3, "batch_size": 10}, memory={"capacity": 40})
    strategy = method(running)
    sizes: list[int] = []
    real = strategy.step

    def watched(batch: Any, at: Any) -> Any:
        assert bool(batch.replayed.all())
        sizes.append(len(batch))
        return real(batch, at)

    strategy.step = watched  # type: ignore[method-assign]
    running.run_task()
    assert max(sizes) == 10
    assert sum(sizes) == 3 * 40


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_what_it_learned_does_not_depend_on_when(scenario: str) -> None:
    running = made(scenario, passes=16, memory={"capacity": 120})
    result = AccuracyMatrix.of(finish(running), running.num_tasks)
    assert result.average_accuracy() > 0.85


def test_tasks_that_share_their_units_share_the_memory() -> None:
    running = made("domain")
    finish(running)
    counts = torch.bincount(method(running).memory.tasks)
    assert len(counts) == 3
    assert int(counts.max() - counts.min()) <= 2


def test_either_optimiser_can_be_chosen() -> None:
    running = made(options={"passes": 16, "optimizer": "training"}, memory={"capacity": 120})
    result = AccuracyMatrix.of(finish(running), running.num_tasks)
    assert result.average_accuracy() > 0.8


def test_the_learning_rate_follows_cosines_with_warm_restarts() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=1, T_mult=2, eta_min=5e-4)
    expected = [0.005]
    for _ in range(1, 64):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    found = [0.05 * warm_restarts(epoch, 0.01) for epoch in range(64)]
    assert found == pytest.approx(expected)
    assert found[63] < 7e-4
