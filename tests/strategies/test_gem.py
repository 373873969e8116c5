"""GEM on digits: every projected gradient keeps the old memories' losses, and memory is filled as the paper says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import finish, matrix, trainer, trial

from raycl.strategies.base import Position
from raycl.strategies.gem import GEM
from raycl.streams.task import Batch
from raycl.trainer import Trainer

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 10, "epochs": 1}
PER_TASK = {"capacity": 30, "unit": "task", "selection": "ring"}


def made(scenario: str = "task", **blocks: Any) -> Trainer:
    return trainer(trial("gem", scenario, **{"training": SGD, "memory": PER_TASK, **blocks}))


def method(running: Trainer) -> GEM:
    assert isinstance(running.strategy, GEM)
    return running.strategy


def least_products(running: Trainer) -> list[float]:
    """For each update after the first task, the least product of its gradient with an old task's, over the norms."""
    strategy, least = method(running), []
    edit = strategy.edit_gradients

    def checked(batch: Batch, at: Position) -> None:
        edit(batch, at)
        own = torch.cat([parameter.grad.flatten() for parameter in strategy.network.parameters()])
        for rows in strategy._past_tasks():
            old = strategy._gradient(rows)
            least.append(float(own @ old / (own.norm() * old.norm() + 1e-12)))

    strategy.edit_gradients = checked  # type: ignore[method-assign]
    finish(running)
    return least


@pytest.mark.parametrize("scenario", ["task", "class"])
@pytest.mark.parametrize("memory_strength", [0.0, 0.5])
def test_no_update_points_against_an_old_task(scenario: str, memory_strength: float) -> None:
    products = least_products(made(scenario, options={"memory_strength": memory_strength}))
    assert len(products) > 40
    assert min(products) > -1e-4


def test_the_check_fails_without_a_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.gem.project", lambda gradient, *_: gradient)
    assert min(least_products(made("class"))) < -0.1


def test_the_current_task_is_no_constraint_and_every_old_one_is() -> None:
    running = made()
    seen: list[list[int]] = []
    strategy = method(running)
    edit = strategy.edit_gradients

    def noted(batch: Batch, at: Position) -> None:
        seen.append([int(rows.task[0]) for rows in strategy._past_tasks()])
        edit(batch, at)

    strategy.edit_gradients = noted  # type: ignore[method-assign]
    finish(running)
    assert [tasks for before, tasks in zip([None, *seen], seen, strict=False) if tasks != before] == [[], [0], [0, 1]]


def test_each_task_keeps_its_last_rows_of_the_first_epoch() -> None:
    running = made(training={**SGD, "epochs": 2})
    finish(running)
    tasks = method(running).memory.tasks
    assert torch.bincount(tasks).tolist() == [30, 30, 30]
    assert method(running).memory.capacity == 90


def test_rows_of_a_shared_capacity_that_were_taken_over_no_longer_count() -> None:
    running = made(memory={"capacity": 30})
    strategy = method(running)
    running.run_task()
    counted: list[bool] = []
    remember = strategy.remember

    def noted(batch: Batch, at: Position) -> None:
        remember(batch, at)
        held = int((strategy.memory.tasks < strategy.task).sum())
        counted.append(sum(len(rows) for rows in strategy._past_tasks()) == held)

    strategy.remember = noted  # type: ignore[method-assign]
    running.run_task()
    assert all(counted)
    assert int((strategy.memory.tasks == 0).sum()) < 30


def test_a_parameter_without_a_gradient_takes_part_as_zeros() -> None:
    """Skipping it would shift every parameter behind it."""
    running = made("class", options={"memory_strength": 0.0})
    strategy = method(running)
    edit = strategy.edit_gradients

    def without_first(batch: Batch, at: Position) -> None:
        next(iter(strategy.network.parameters())).grad = None
        edit(batch, at)
        own = torch.cat([parameter.grad.flatten() for parameter in strategy.network.parameters() if at.task])
        assert all(float(own @ strategy._gradient(rows)) > -1e-4 for rows in strategy._past_tasks())

    running.run_task()
    strategy.edit_gradients = without_first  # type: ignore[method-assign]
    running.run_task()


def test_it_forgets_less_than_naive_fine_tuning() -> None:
    stream = {"name": "permuted", "tasks": 3, "train_per_task": 500}
    gem = matrix(trial("gem", "domain", stream=stream, training=SGD, memory=PER_TASK))
    naive = matrix(trial("naive", "domain", stream=stream, training=SGD))
    assert gem.average_accuracy() > naive.average_accuracy() + 0.02
