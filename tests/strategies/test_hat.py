"""HAT as a whole: what gates protect, what they cost, how they learn, and wrong variants of each."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from old_answers import OPTIMIZERS, check_old_answers
from strategies.hat_trials import PAPER, method, running, use
from support import TINY, finish, matrix, trial
from torch import Tensor

from raycl.errors import MethodError
from raycl.learning.attention import ScaledUpdates
from raycl.learning.ownership import FrozenEntries
from raycl.matrix import AccuracyMatrix
from raycl.strategies.base import Losses, Position, TaskData
from raycl.strategies.hat import HAT
from raycl.streams.task import Batch

HARD = {"hard": True}


# -- old answers -----------------------------------------------------------------------------------------------

NORMED = {"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "batch"}


@pytest.mark.parametrize("model", [NORMED, {**NORMED, "norm": "none"}, {"norm": "batch"}], ids=str)
def test_hard_gates_keep_old_logits_to_the_last_bit(model: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if "name" in model:
        monkeypatch.setitem(TINY, "model", {})
    training = {**OPTIMIZERS["sgd"], "iterations": 12}
    check_old_answers(running(options=HARD, model=model, training=training), monkeypatch)


def test_residual_networks_keep_old_logits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TINY, "model", {})
    training = {**OPTIMIZERS["adamw"], "iterations": 8}
    learning = running(
        options=HARD, model={"name": "resnet18", "width": 4}, stream={"pad": 4, "tasks": 2}, training=training
    )
    check_old_answers(learning, monkeypatch)


class ZeroesGradientsOnly(HAT):
    """A mutant: relies on gradients of zero to keep weights."""

    def after_update(self, batch: Batch, at: Position) -> None:
        self._idle.restore()


class TrainsEveryHead(HAT):
    """A mutant: leaves the rows of other tasks to the optimiser."""

    def learning_units(self, task: int) -> None:
        return None

    def begin_task(self, task: int, data: TaskData) -> None:
        super().begin_task(task, data)
        self._idle = FrozenEntries({}, {})


class LastInsteadOfMax(HAT):
    """A mutant: protects what the task before needed, and nothing else."""

    def used(self) -> Tensor:
        return self.gates[-1].float() if self.gates else super().used()


class SharesNorms(HAT):
    """A mutant: one batch norm for all tasks."""

    def end_task(self, task: int, data: TaskData) -> None:
        super().end_task(task, data)
        self.norms.clear()


class StaysSoft(HAT):
    """A mutant: binarises what it protects, and answers with soft gates."""

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        assert task is not None
        return self.network(x)


@pytest.mark.parametrize("mutant", [ZeroesGradientsOnly, TrainsEveryHead, LastInsteadOfMax, SharesNorms, StaysSoft])
def test_mutants_that_move_old_logits_are_caught(mutant: type[HAT], monkeypatch: pytest.MonkeyPatch) -> None:
    use(mutant, monkeypatch)
    with pytest.raises(AssertionError, match="after task"):
        check_old_answers(running(options=HARD, model={"norm": "batch"}, training=OPTIMIZERS["sgd"]), monkeypatch)


def check_weights(training: dict[str, Any]) -> None:
    """Weights between units that old tasks use stay to the last bit; others move."""
    learning = running(options=HARD, model={"hidden": [32, 24]}, training=training)
    learning.run_task()
    learning.run_task()
    strategy = method(learning)
    shares, used = strategy.attention.shares(strategy.used()), strategy.used()
    before = {name: value.clone() for name, value in strategy.network.backbone.named_parameters()}
    learning.run_task()
    for name, value in strategy.network.backbone.named_parameters():
        kept = shares[name] == 0
        assert torch.equal(value[kept], before[name][kept]), name
        assert not torch.equal(value[~kept], before[name][~kept]), name
    first, second = (half.bool() for half in used.split([32, 24]))
    assert torch.equal(shares["3.weight"] == 0, second[:, None] & first)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_weights_between_used_units_stay(optimizer: str) -> None:
    check_weights(OPTIMIZERS[optimizer])


@pytest.mark.parametrize(
    "training",
    [{"optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 1e-2}, {"reset_optimizer": False}],
    ids=["decay", "momentum"],
)
def test_drift_of_decay_or_momentum_is_caught(training: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    check_weights(training)
    use(ZeroesGradientsOnly, monkeypatch)
    with pytest.raises(AssertionError):
        check_weights(training)


def check_capacity(options: dict[str, Any]) -> None:
    """What is used grows, unit by unit, and is the largest gate of any task."""
    used: list[Tensor] = []
    learning = running(options=options, stream={"tasks": 5})
    finish(learning, lambda trainer: used.append(method(trainer).used()))
    for before, after in pairwise(used):
        assert bool((after >= before).all())
    assert float(used[-1].sum()) > float(used[0].sum())
    assert torch.equal(used[-1], torch.stack([own.float() for own in method(learning).gates]).amax(0))


@pytest.mark.parametrize("hard", [False, True])
def test_what_is_used_only_grows(hard: bool) -> None:
    check_capacity({"hard": hard})


def test_the_last_task_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    use(LastInsteadOfMax, monkeypatch)
    with pytest.raises(AssertionError):
        check_capacity({})


# -- soft gates ------------------------------------------------------------------------------------------------


def second_task(**blocks: Any) -> tuple[HAT, Batch]:
    """The method as it begins the second task, with soft gates of all kinds, and a batch of that task."""
    learning = running(**blocks)
    learning.run_task()
    strategy = method(learning)
    strategy.gates = [torch.rand(strategy.attention.units, generator=torch.Generator().manual_seed(0))]
    batches: list[Batch] = []

    class Stop(Exception):
        pass

    def stop(batch: Batch, at: Position) -> Losses:
        batches.append(batch)
        raise Stop

    strategy.step = stop  # type: ignore[method-assign]
    with pytest.raises(Stop):
        learning.run_task()
    del strategy.step  # type: ignore[attr-defined]
    return strategy, batches[0]


def check_scaled_updates() -> None:
    """With the paper's optimiser an update is that of the scaled gradient."""
    strategy, batch = second_task(training=PAPER)
    network = strategy.network.backbone
    shares = strategy.attention.shares(strategy.gates[0])
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    strategy.step(batch, Position(1, "train", 0, 4, 0.2, False))
    for name, value in network.named_parameters():
        assert value.grad is not None
        expected = before[name] - 0.2 * shares[name] * value.grad
        torch.testing.assert_close(value.detach(), expected, rtol=1e-5, atol=1e-7)


def test_updates_are_those_of_the_papers_scaled_gradient() -> None:
    check_scaled_updates()


def test_updates_that_are_not_scaled_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScaledUpdates, "after_update", lambda self: None)
    with pytest.raises(AssertionError):
        check_scaled_updates()


def test_gradients_are_clipped_after_masking() -> None:
    """What old tasks keep takes no part in the norm."""
    strategy, batch = second_task(training={**PAPER, "gradient_clip": 1e-3}, options=HARD)
    strategy.gates = [torch.ones(32)]
    strategy.begin_task(1, range(100))  # type: ignore[arg-type]
    head = strategy.network.head
    before = head.weight.detach().clone()
    strategy.step(batch, Position(1, "train", 0, 4, 0.2, False))
    moved = torch.cat([(head.weight - before).flatten(), torch.zeros(2)])
    gradients = [p.grad for p in (head.weight, head.bias) if p.grad is not None]
    assert torch.cat([g.flatten() for g in gradients]).norm() == pytest.approx(1e-3, rel=1e-4)
    assert moved.norm() > 0


def check_regulariser() -> None:
    strategy, batch = second_task(options={"penalty": 0.5})
    gates = torch.zeros(32)
    gates[:20] = 1
    strategy.gates = [gates]
    strategy.begin_task(1, range(100))  # type: ignore[arg-type]
    strategy._sharpness = strategy.config.s_max

    def cost(open_units: slice) -> float:
        strategy.embedding.data.fill_(-6.0)
        strategy.embedding.data[open_units] = 6.0
        return float(strategy.loss(batch)["regulariser"].detach())

    assert cost(slice(0, 20)) == 0
    assert cost(slice(5, 9)) == 0
    assert cost(slice(0, 32)) == pytest.approx(0.5)
    assert cost(slice(18, 26)) == pytest.approx(0.5 * 6 / 12)


def test_units_of_earlier_tasks_are_free_of_charge() -> None:
    check_regulariser()


def test_a_price_on_every_unit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Charges(HAT):
        def begin_task(self, task: int, data: TaskData) -> None:
            super().begin_task(task, data)
            self._price = torch.full((32,), self.config.penalty / 32)

    use(Charges, monkeypatch)
    with pytest.raises(AssertionError):
        check_regulariser()


def test_nothing_is_charged_where_nothing_is_free() -> None:
    strategy, batch = second_task()
    strategy.gates = [torch.ones(32)]
    strategy.begin_task(1, range(100))  # type: ignore[arg-type]
    assert float(strategy.loss(batch)["regulariser"].detach()) == 0


# -- as a whole ------------------------------------------------------------------------------------------------


def permuted(seed: int, **options: Any) -> AccuracyMatrix:
    stream = {"name": "permuted", "dataset": "digits", "tasks": 3, "normalize": "mean_std"}
    training = {**PAPER, "batch_size": 32, "epochs": 8}
    options = {"penalty": 0.1, **options}
    return matrix(
        trial("hat", "task", seed=seed, options=options, stream=stream, training=training, model={"hidden": [64, 64]})
    )


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_soft_gates_forget_less_than_a_point_and_hard_ones_nothing(seed: int) -> None:
    soft, hard = permuted(seed), permuted(seed, hard=True)
    assert abs(soft.backward_transfer()) < 0.01
    assert hard.backward_transfer() == 0
    assert soft.average_accuracy() > 0.85
    assert abs(soft.average_accuracy() - hard.average_accuracy()) < 0.03


def test_state_is_charged_as_floats_or_as_bits() -> None:
    for hard, per_task in ((False, 4 * 32), (True, 4)):
        charged = [row.cost.state_bytes for row in finish(running(options={"hard": hard})) if row.task >= 0]
        network = [4 * (64 * 32 + 32 + 33 * outputs) for outputs in (2, 4, 6)]
        assert charged == [size + per_task * (task + 1) for task, size in enumerate(network)]


def test_it_needs_a_head_per_task_hidden_units_and_the_task_id() -> None:
    with pytest.raises(MethodError, match=r"set model\.head: per_task"):
        running(model={"head": "single"})
    with pytest.raises(MethodError, match="needs hidden layers"):
        running(model={"hidden": []})
    with pytest.raises(MethodError, match="needs the task id"):
        running().strategy.predict(torch.zeros(1, 1, 8, 8), None)
