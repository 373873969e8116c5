"""A-GEM on digits: no update points against the rows drawn from earlier tasks, which are asked for one update ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import finish, matrix, trainer, trial
from torch import Tensor

from raycl.memory.replay import ReplayMemory as Buffer
from raycl.strategies.agem import AGEM
from raycl.strategies.base import Position
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 10, "epochs": 1}
PER_TASK = {"capacity": 30, "unit": "task"}


def made(scenario: str = "class", name: str = "agem", **blocks: Any) -> Trainer:
    blocks = {"training": SGD, "memory": PER_TASK, **blocks}
    return trainer(trial(name, scenario, **blocks))


def method(running: Trainer) -> AGEM:
    assert isinstance(running.strategy, AGEM)
    return running.strategy


def gradient(strategy: AGEM) -> Tensor:
    return torch.cat([p.grad.flatten() for p in strategy.network.parameters() if p.grad is not None])


def watched(running: Trainer, look: Callable[[Tensor, Tensor, Tensor], None]) -> None:
    """Finish the trial, looking at the gradient, the reference and what became of the gradient at every update."""
    strategy = method(running)
    edit = strategy.edit_gradients

    def looking(batch: Batch, at: Position) -> None:
        past, before = strategy.past_gradients(), gradient(strategy)
        edit(batch, at)
        if past is not None:
            look(before, past[0], gradient(strategy))

    strategy.edit_gradients = looking  # type: ignore[method-assign]
    finish(running)


def check(scenario: str = "domain", **blocks: Any) -> None:
    """Row 16, at every update: nothing is left along a reference that objected, else every bit of the gradient is."""
    objections: list[bool] = []

    def look(before: Tensor, reference: Tensor, after: Tensor) -> None:
        objects = float(before @ reference) < 0
        objections.append(objects)
        if objects:
            assert abs(float(after @ reference)) < 1e-6 * float(before.norm() * reference.norm())
            assert float(after.norm()) <= float(before.norm())
        else:
            assert torch.equal(before, after)

    watched(made(scenario, **blocks), look)
    assert sum(objections) > 5
    assert scenario == "class" or not all(objections), "both cases"


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_nothing_is_left_along_a_reference_that_objects(scenario: str) -> None:
    check(scenario)


def test_nor_with_convolutions_and_batch_norm() -> None:
    check(model={"name": "cnn", "channels": [4], "hidden": 16, "norm": "batch"})


def by_layer(self: AGEM, own: Tensor, past: Tensor) -> Tensor:
    sizes = [p.numel() for p in self.network.parameters()]
    return torch.cat([project(self, g, r) for g, r in zip(own.split(sizes), past.split(sizes, 1), strict=True)])


def norm_not_squared(self: AGEM, own: Tensor, past: Tensor) -> Tensor:
    product = own @ past[0]
    return torch.where(product < 0, own - product / past[0].norm() * past[0], own)


def always(self: AGEM, own: Tensor, past: Tensor) -> Tensor:
    """What agrees with the old rows is taken away too."""
    return own - (own @ past[0]) / (past[0] @ past[0]) * past[0]


project = AGEM.project
MUTANTS = {"layer by layer": by_layer, "over the norm, not its square": norm_not_squared, "always": always}


@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_the_check_fails_on_wrong_variants(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AGEM, "project", MUTANTS[mutant])
    with pytest.raises(AssertionError):
        check()


def check_drawn(**blocks: Any) -> None:
    """The reference: so many rows, from all earlier tasks and no other, scored on the units they were learned with."""
    running = made("task", stream={"tasks": 4}, options={"reference_batch_size": 50}, **blocks)
    strategy, tasks = method(running), set()
    past_gradients = strategy.past_gradients

    def looking() -> Tensor | None:
        rows = strategy._reference
        assert (rows is None) == (strategy.task == 0)
        if rows is not None:
            assert len(rows) == min(50, 30 * strategy.task)
            assert set(rows.task.tolist()) == set(range(strategy.task))
            loss = strategy.memory_losses(strategy.network(rows.x), rows)
            units = strategy.network(rows.x).unflatten(1, (-1, 2))[torch.arange(len(rows)), rows.task]
            torch.testing.assert_close(loss, units.logsumexp(1) - units[torch.arange(len(rows)), rows.y % 2])
            tasks.add(strategy.task)
        return past_gradients()

    strategy.past_gradients = looking  # type: ignore[method-assign]
    finish(running)
    assert tasks == {1, 2, 3}


def test_the_reference_is_drawn_from_all_earlier_tasks() -> None:
    check_drawn()


def test_and_from_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the task that is being learned is a constraint."""
    sample = Buffer.sample
    monkeypatch.setattr(Buffer, "sample", lambda self, count, _: sample(self, count))
    monkeypatch.setattr(Buffer, "request", lambda self, count, _: None)
    with pytest.raises(AssertionError):
        check_drawn()


def test_and_scored_on_its_own_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the softmax runs over the units of all tasks seen."""
    policy = {**SGD, "active_logits": "seen"}
    with pytest.raises(AssertionError):
        check_drawn(training=policy)
    check_drawn(training={**SGD, "active_logits": "current"})


def test_draws_are_asked_for_one_update_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sample, add, request = Buffer.sample, Buffer.add, Buffer.request
    monkeypatch.setattr(Buffer, "sample", lambda *a, **k: order.append("sample") or sample(*a, **k))
    monkeypatch.setattr(Buffer, "add", lambda *a, **k: order.append("add") or add(*a, **k))
    monkeypatch.setattr(Buffer, "request", lambda *a, **k: order.append("request") or request(*a, **k))
    running = made()
    running.run_task()
    assert set(order) == {"add"}, "there is no earlier task yet"
    order.clear()
    running.run_task()
    assert order[:6] == ["sample", "request", "add", "sample", "request", "add"]
    assert order[-2:] == ["sample", "add"], "nothing is requested that nobody will fetch"


def test_a_memory_without_old_rows_objects_to_nothing() -> None:
    running = made(memory={"capacity": 5, "selection": "ring"})
    finish(running)
    assert set(method(running).memory.tasks.tolist()) == {2}


def test_with_one_old_task_it_is_gem_without_strength() -> None:
    """All of the memory is drawn, so that both have the same single constraint."""
    networks = []
    for name, options in (("agem", {}), ("gem", {"memory_strength": 0.0})):
        running = made(name=name, options=options)
        running.run_task()
        running.run_task()
        networks.append(dict(running.strategy.network.state_dict()))
    ours, theirs = networks
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=1e-4)


def test_it_forgets_less_than_naive_fine_tuning() -> None:
    stream = {"name": "permuted", "tasks": 3, "train_per_task": 500}
    agem = matrix(trial("agem", "domain", stream=stream, training=SGD, memory=PER_TASK))
    naive = matrix(trial("naive", "domain", stream=stream, training=SGD))
    assert agem.average_accuracy() > naive.average_accuracy() + 0.02
