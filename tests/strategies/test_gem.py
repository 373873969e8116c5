"""GEM on digits: every projected gradient keeps the old memories' losses, and memory is filled as the paper says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from old_gradients import from_rows, to_rows
from support import finish, matrix, trainer, trial
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.learning import grouped_gradients, projection
from raycl.learning.grouped_gradients import GroupGradients
from raycl.strategies import constrained
from raycl.strategies.base import Position
from raycl.strategies.gem import GEM, OldRows
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 10, "epochs": 1}
PER_TASK = {"capacity": 30, "unit": "task", "selection": "ring"}
FOUR_HEADS = {"tasks": 4}


def made(scenario: str = "task", **blocks: Any) -> Trainer:
    blocks = {"training": SGD, "memory": PER_TASK, **blocks}
    return trainer(trial("gem", scenario, **blocks))


def method(running: Trainer) -> GEM:
    assert isinstance(running.strategy, GEM)
    return running.strategy


def old_gradients(strategy: GEM) -> dict[int, Tensor]:
    """The definition: for each old task the gradient of the mean loss over its rows in memory, one task at a time."""
    memory, scenario, gradients = strategy.memory, strategy.context.scenario, {}
    strategy.network.eval()
    for task in range(strategy.task):
        slots = (memory.tasks == task).nonzero().flatten()
        if not len(slots):
            continue
        rows = memory.read(slots)
        logits = strategy.network(rows["image"].float() / 255)
        if scenario.name == "task":  # two units for each task
            outside = torch.ones(logits.shape[1], dtype=torch.bool)
            outside[2 * task : 2 * task + 2] = False
            logits = logits.masked_fill(outside, float("-inf"))
        loss = nn.functional.cross_entropy(logits, rows["label"])
        parts = torch.autograd.grad(loss, list(strategy.network.parameters()))
        gradients[task] = torch.cat([part.flatten() for part in parts])
    strategy.network.train()
    return gradients


def own_gradient(strategy: GEM) -> Tensor:
    return torch.cat([p.grad.flatten() for p in strategy.network.parameters() if p.grad is not None])


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm() + 1e-12))


def least_products(running: Trainer) -> list[float]:
    """For each update after the first task, the least product of its gradient with an old task's, over the norms."""
    strategy, least = method(running), []
    edit = strategy.edit_gradients

    def checked(batch: Batch, at: Position) -> None:
        edit(batch, at)
        if at.task:
            own = own_gradient(strategy)
            least.append(min(cosine(own, old) for old in old_gradients(strategy).values()))

    strategy.edit_gradients = checked  # type: ignore[method-assign]
    finish(running)
    return least


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("memory_strength", [0.0, 0.5])
def test_no_update_points_against_an_old_task(scenario: str, memory_strength: float) -> None:
    products = least_products(made(scenario, options={"memory_strength": memory_strength}))
    assert len(products) > 40
    assert min(products) > -1e-4


@pytest.mark.parametrize("memory", [PER_TASK, {"capacity": 25}], ids=["per task", "shared"])
def test_nor_with_convolutions_and_batch_norm(memory: dict[str, Any]) -> None:
    running = made("class", model={"name": "cnn", "channels": [4], "hidden": 16, "norm": "batch"}, memory=memory)
    assert min(least_products(running)) > -1e-4


def other_heads(self: GEM, logits: Tensor, rows: Batch) -> Tensor:
    """The mutant: memory is scored on the units of the next task."""
    return nn.functional.cross_entropy(logits, (rows.y + 2) % logits.shape[1], reduction="none")


def zero_filled(self: OldRows, tasks: Tensor) -> tuple[Batch, list[int]]:
    """The mutant: places that no row has taken yet count as black images of the first unit."""
    rows, counts = left(self, tasks)
    black = torch.zeros_like(rows.x[:20])
    parts, start = [], 0
    for count in counts:
        own = rows[slice(start, start + count)]
        unit = torch.zeros_like(own.y[:1]).expand(20)
        empty = Batch(black, black, unit, own.task[:1].expand(20), own.replayed[:1].expand(20))
        parts += [own, empty]
        start += count
    return Batch.cat(parts), [count + 20 for count in counts]


left, past_gradients = OldRows.left, GEM.past_gradients


def old_rows(strategy: GEM) -> Tensor | None:
    """What the method holds of old tasks, ``[tasks, parameters]``."""
    past = past_gradients(strategy)
    return None if past is None else to_rows(past, sum(p.numel() for p in strategy.parameters()))


def only(chosen: Callable[[Tensor], Tensor]) -> Callable[[GEM], GroupGradients | None]:
    """The mutants: fewer constraints than old tasks."""

    def fewer(self: GEM) -> GroupGradients | None:
        past = old_rows(self)
        return None if past is None else from_rows(chosen(past))

    return fewer


def backwards(tensors: list[Tensor]) -> Tensor:
    """The mutant: parameters in another order than those of the old gradients."""
    return torch.cat([tensor.flatten() for tensor in reversed(tensors)])


MUTANTS: dict[str, tuple[object, str, Callable[..., Any]]] = {
    "no projection": (GEM, "project", lambda self, gradient, past: gradient),
    "the mean of the constraints": (GEM, "past_gradients", only(lambda past: past.mean(0, keepdim=True))),
    "the first task only": (GEM, "past_gradients", only(lambda past: past[:1])),
    "other heads": (GEM, "memory_losses", other_heads),
    "zero-filled rows": (OldRows, "left", zero_filled),
    "another order": (constrained, "flat", backwards),
}


@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_the_check_fails_on_wrong_variants(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    assert min(least_products(made("class"))) < -0.01


def constraints(running: Trainer) -> list[int]:
    """How many old gradients each update had."""
    strategy, seen = method(running), []
    project = strategy.project

    def noted(gradient: Tensor, past: GroupGradients) -> Tensor:
        seen.append(len(past.gram()))
        return project(gradient, past)

    strategy.project = noted  # type: ignore[method-assign]
    finish(running)
    return seen


def test_the_current_task_is_no_constraint_and_every_old_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    running = made(stream=FOUR_HEADS)
    assert sorted(set(constraints(running))) == [1, 2, 3]
    begin = GEM.begin_task
    monkeypatch.setattr(GEM, "begin_task", lambda self, task, data: with_current(begin, self, task, data))
    assert max(constraints(made(stream=FOUR_HEADS))) == 4, "the check sees it"


def with_current(begin: Callable[..., None], self: GEM, task: int, data: Any) -> None:
    """The mutant: rows of the task that is being learned count too."""
    table = data.table()
    self.memory.add({name: column[:30] for name, column in table.items()})
    begin(self, task, data)


def test_old_gradients_are_those_of_one_task_at_a_time() -> None:
    for scenario in ("task", "domain", "class"):
        running = made(scenario)
        strategy = method(running)
        edit = strategy.edit_gradients

        def compared(batch: Batch, at: Position, strategy: GEM = strategy, edit: Any = edit) -> None:
            past = old_rows(strategy)
            expected = list(old_gradients(strategy).values())
            assert (past is None) == (not expected)
            if past is not None:
                torch.testing.assert_close(past, torch.stack(expected), rtol=1e-4, atol=1e-6)
            edit(batch, at)

        strategy.edit_gradients = compared  # type: ignore[method-assign]
        finish(running)


def test_all_old_tasks_take_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def forwards() -> int:
        running, runs = made(stream=FOUR_HEADS), 0
        for _ in range(3):
            running.run_task()

        def count(*_: object) -> None:
            nonlocal runs
            runs += 1

        method(running).network.register_forward_pre_hook(count)
        strategy = method(running)
        edit = strategy.edit_gradients
        passes: list[int] = []

        def counted(batch: Batch, at: Position) -> None:
            before = runs
            edit(batch, at)
            passes.append(runs - before)

        strategy.edit_gradients = counted  # type: ignore[method-assign]
        running.run_task()
        assert len(set(passes)) == 1
        return passes[0]

    assert forwards() == 1
    monkeypatch.setattr(grouped_gradients, "GROUPED_NUMBERS", 1)
    assert forwards() == 3, "where memory does not allow it"


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
    counted: list[int] = []
    remember = strategy.remember

    def noted(batch: Batch, at: Position) -> None:
        remember(batch, at)
        past = old_rows(strategy)
        expected = torch.stack(list(old_gradients(strategy).values()))
        assert past is not None
        torch.testing.assert_close(past, expected, rtol=1e-4, atol=1e-6)
        counted.append(int((strategy.memory.tasks == 0).sum()))

    strategy.remember = noted  # type: ignore[method-assign]
    running.run_task()
    assert counted[-1] < counted[0] <= 30


def test_a_task_that_is_no_longer_in_memory_objects_to_nothing() -> None:
    running = made("class", memory={"capacity": 5, "selection": "ring"})
    finish(running)
    assert set(method(running).memory.tasks.tolist()) == {2}


def one_class_first(seed: int) -> Trainer:
    """Nothing can be answered wrong in the first task: its gradient is zero."""
    stream = {"first_task": 1, "class_order": "shuffled", "normalize": "none"}
    training = {"optimizer": "adam", "learning_rate": 1e-2, "epochs": 2}
    return made(stream=stream, training=training, memory={"capacity": 60, "unit": "total"}, seed=seed)


@pytest.mark.parametrize("seed", [2, 3, 5, 8])
def test_an_old_task_whose_gradient_is_zero_objects_to_nothing(seed: int) -> None:
    rows = finish(one_class_first(seed))
    assert rows[-1].correct[0] == rows[-1].total[0]


def test_a_length_of_zero_that_is_divided_by_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: lengths are raised to 1e-150, and no gradient is left out."""
    monkeypatch.setattr(projection, "shortest", lambda gradients: 0.0)
    solve = projection.solve_dual

    def floored(gram: np.ndarray, *others: Any) -> np.ndarray:
        return solve(np.where(np.eye(len(gram)) > 0, np.maximum(gram, 1e-300), gram), *others)

    monkeypatch.setattr(projection, "solve_dual", floored)
    with pytest.raises(MethodError, match="finite"):
        finish(one_class_first(2))


def test_a_parameter_without_a_gradient_takes_part_as_zeros() -> None:
    """Skipping it would shift every parameter behind it."""
    running = made("class", options={"memory_strength": 0.0})
    strategy = method(running)
    edit = strategy.edit_gradients

    def without_first(batch: Batch, at: Position) -> None:
        next(iter(strategy.network.parameters())).grad = None
        edit(batch, at)
        own = own_gradient(strategy)
        assert all(float(own @ old) > -1e-4 for old in old_gradients(strategy).values())

    running.run_task()
    strategy.edit_gradients = without_first  # type: ignore[method-assign]
    running.run_task()


def test_rows_are_augmented_anew_for_every_update() -> None:
    running = made("class", stream={"augment": "crop"})
    running.run_task()
    strategy, differing = method(running), []
    edit = strategy.edit_gradients

    def twice(batch: Batch, at: Position) -> None:
        once, again = old_rows(strategy), old_rows(strategy)
        assert once is not None
        assert again is not None
        differing.append(not torch.equal(once, again))
        edit(batch, at)

    strategy.edit_gradients = twice  # type: ignore[method-assign]
    running.run_task()
    assert all(differing)


def test_it_forgets_less_than_naive_fine_tuning() -> None:
    stream = {"name": "permuted", "tasks": 3, "train_per_task": 500}
    gem = matrix(trial("gem", "domain", stream=stream, training=SGD, memory=PER_TASK))
    naive = matrix(trial("naive", "domain", stream=stream, training=SGD))
    assert gem.average_accuracy() > naive.average_accuracy() + 0.02
