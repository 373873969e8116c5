"""HAT as a whole: what gates protect, what they cost, how they learn, and wrong variants of each."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from old_answers import OPTIMIZERS, check_old_answers
from support import TINY, finish, matrix, trainer, trial
from torch import Tensor

from raycl.errors import MethodError
from raycl.learning.attention import ScaledUpdates, annealed, gate
from raycl.learning.ownership import FrozenEntries
from raycl.matrix import AccuracyMatrix
from raycl.strategies.base import Losses, Position, TaskData
from raycl.strategies.hat import HAT
from raycl.streams.task import Batch
from raycl.trainer import Trainer

PAPER: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.2}
HARD = {"hard": True}


def running(**blocks: Any) -> Trainer:
    return trainer(trial("hat", "task", **blocks))


def method(trainer: Trainer) -> HAT:
    assert isinstance(trainer.strategy, HAT)
    return trainer.strategy


def use(mutant: type[HAT], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.hat.HAT", mutant)


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


# -- how gates are learned -------------------------------------------------------------------------------------


def check_annealing(training: dict[str, Any], lengths: list[int]) -> None:
    """In every pass the sharpness rises from 1 / s_max to s_max."""
    learning = running(training=training)
    strategy, seen = method(learning), []
    step = strategy.step

    def watch(batch: Batch, at: Position) -> Losses:
        losses = step(batch, at)
        seen.append(strategy._sharpness)
        return losses

    strategy.step = watch  # type: ignore[method-assign]
    learning.run_task()
    assert len(seen) == sum(lengths)
    for length in lengths:
        rise, seen = seen[:length], seen[length:]
        assert rise[0] == 1 / 400
        assert rise[-1] == pytest.approx(400)
        assert rise == sorted(rise)


def test_gates_sharpen_within_every_epoch() -> None:
    check_annealing({"epochs": 3}, [17, 17, 17])
    check_annealing({"iterations": 34}, [17, 17])
    check_annealing({"iterations": 9}, [9])


def test_epochs_of_one_update_share_a_rise() -> None:
    check_annealing({"epochs": 12, "batch_size": 512}, [6, 6])
    check_annealing({"epochs": 3, "batch_size": 512}, [3])


def jumps(update: int, updates: int, passes: int, s_max: float) -> float:
    """A mutant: a pass may have two updates, its ends."""
    passes = max(1, min(passes, updates // 2))
    done = min(1.0, update * passes % updates / max(1, updates - passes))
    return 1 / s_max + (s_max - 1 / s_max) * done


def test_a_sharpness_that_jumps_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.hat.annealed", jumps)
    with pytest.raises(AssertionError):
        check_annealing({"epochs": 12, "batch_size": 512}, [6, 6])


def test_gates_that_sharpen_over_the_whole_task_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.hat.annealed", lambda update, all, passes, s: annealed(update, all, 1, s))
    with pytest.raises(AssertionError):
        check_annealing({"epochs": 3}, [17, 17, 17])


def check_embeddings_move() -> None:
    learning = running(training={**PAPER, "epochs": 4})
    strategy, start = method(learning), []
    begin_task = strategy.begin_task

    def begin(task: int, data: TaskData) -> None:
        start.append(strategy.embedding.detach().clone())
        begin_task(task, data)

    strategy.begin_task = begin  # type: ignore[method-assign]
    learning.run_task()
    moved = (strategy.embedding.detach() - start[0]).abs()
    assert float(moved.mean()) > 0.2
    assert float(strategy.embedding.detach().abs().max()) <= 6


def check_norms(learning: Trainer) -> None:
    """A task begins with the norms of a new network, and not with those of the task before."""
    strategy = method(learning)
    fresh = {name: value.clone() for name, value in strategy._norms().items()}
    learning.run_task()
    begin = strategy.begin_task

    def watched(task: int, data: TaskData) -> None:
        begin(task, data)
        assert all(torch.equal(value, fresh[name]) for name, value in strategy._norms().items()), "norms"
        assert not all(torch.equal(value, fresh[name]) for name, value in strategy.norms[0].items())

    strategy.begin_task = watched  # type: ignore[method-assign]
    learning.run_task()


def test_each_task_begins_with_the_norms_of_a_new_network() -> None:
    check_norms(running(model={"norm": "batch"}))


class GoesOnWithTheNorms(HAT):
    """The mutant: what is to be the new network's norms are those that move."""

    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self._new_norms = self._norms()


def test_norms_that_go_on_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    use(GoesOnWithTheNorms, monkeypatch)
    with pytest.raises(AssertionError, match="norms"):
        check_norms(running(model={"norm": "batch"}))


def test_embeddings_move() -> None:
    check_embeddings_move()


def test_embeddings_without_compensation_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.hat.gate", lambda e, s, *_: torch.sigmoid(s * e))
    with pytest.raises(AssertionError):
        check_embeddings_move()


def test_embeddings_that_run_away_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.hat.BOUND", float("inf"))
    training = {**PAPER, "learning_rate": 5.0}
    learning = running(training=training, options={"penalty": 20.0})
    learning.run_task()
    assert float(method(learning).embedding.detach().abs().max()) > 6


def used_by(**options: Any) -> float:
    """The share of units that two tasks of permuted digits open."""
    stream = {"name": "permuted", "dataset": "digits", "tasks": 2, "normalize": "mean_std"}
    learning = running(options=options, stream=stream, training={**PAPER, "epochs": 6}, model={"hidden": [64, 64]})
    finish(learning)
    return float(method(learning).used().mean())


def check_published_gradient() -> None:
    """By default the penalty closes as many gates as in float32, fewer than the exact gradient would."""
    default = used_by()
    assert default == used_by(compensation="float32")
    assert default > used_by(compensation="exact") + 0.05


def test_the_published_penalty_goes_with_the_published_gradient() -> None:
    assert HAT.Config().compensation == "float32"
    check_published_gradient()


def test_an_exact_gradient_under_the_published_penalty_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.hat.gate", lambda e, s, s_max, _: gate(e, s, s_max, "exact"))
    with pytest.raises(AssertionError):
        check_published_gradient()


def unclamped(embedding: Tensor, sharpness: float, s_max: float, compensation: str) -> Tensor:
    """A mutant: the paper's factor without the clamp."""
    gates = torch.sigmoid(sharpness * embedding)
    factor = s_max * (torch.cosh(sharpness * embedding) + 1) / (sharpness * (torch.cosh(embedding) + 1))
    gates.register_hook(lambda gradient: gradient * factor.detach())
    return gates


def test_a_factor_that_overflows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.hat.gate", unclamped)
    with pytest.raises(MethodError, match="must stay finite"):
        running(training=PAPER).run_task()


def check_gates() -> None:
    """Gates are those at s_max: nearly all of them open or closed."""
    learning = running(training=PAPER)
    finish(learning)
    strategy = method(learning)
    for own in strategy.gates:
        assert ((own < 0.01) | (own > 0.99)).float().mean() > 0.85
        assert 0 < own.round().mean() < 1
    assert torch.equal(strategy.gates[-1], torch.sigmoid(400 * strategy.embedding.detach()))


def test_gates_are_kept_at_their_sharpest() -> None:
    check_gates()


def test_gates_at_the_sharpness_of_an_epochs_beginning_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Blunt(HAT):
        def _gate(self, task: int) -> Tensor:
            return torch.sigmoid(self.embedding.detach() / self.config.s_max)

    use(Blunt, monkeypatch)
    with pytest.raises(AssertionError):
        check_gates()


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


def test_the_share_of_free_units_is_a_result_of_each_task() -> None:
    free: list[float] = []
    learning = running(stream={"tasks": 3})
    rows = finish(learning, lambda trainer: free.append(1 - float(method(trainer).used().mean())))
    assert [row.measures["free_units"] for row in rows if row.task >= 0] == pytest.approx(free, abs=1e-6)
    assert rows[0].measures == {}
    assert free == sorted(free, reverse=True)


def warnings_of(gates: list[list[float]]) -> tuple[str, ...]:
    """After as many tasks of three, with gates made by hand: two units in the first layer, three in the second."""
    learning = running(model={"hidden": [2, 3]})
    strategy = method(learning)
    for task in range(len(gates)):
        strategy.grow(task)
    strategy.gates = [torch.tensor(own) for own in gates]
    return strategy.warnings()


def test_layers_that_are_used_up_or_closed_are_told() -> None:
    assert warnings_of([[1, 0, 1, 0, 0]]) == ()
    (full,) = warnings_of([[1, 0, 1, 0, 0], [0, 0.99, 1, 0, 0]])
    assert full.startswith("no unit of layer 1 is free for the tasks to come")
    assert warnings_of([[1, 0, 1, 0, 0], [0, 0.99, 1, 0, 0], [1, 0, 0, 0, 1]]) == (), "no task is to come"
    (closed,) = warnings_of([[1, 0, 0.01, 0, 0]])
    assert closed.startswith("task 0 has closed every gate of layer 2")


def test_an_embedding_belongs_to_its_task_and_does_not_decay() -> None:
    learning = running(training={"optimizer": "adamw", "weight_decay": 0.1, "reset_optimizer": False})
    learning.run_task()
    strategy = method(learning)
    first = strategy.gates[0].clone()
    group = strategy.context.optimizers["embedding 0"].param_groups[0]
    assert group["weight_decay"] == 0
    learning.run_task()
    assert torch.equal(strategy.gates[0], first)
    with pytest.raises(KeyError):
        strategy.context.optimizers["embedding 0"]


def test_the_learning_rate_falls_to_its_share_within_a_task() -> None:
    learning = running(training={"learning_rate": 1e-2, "iterations": 10}, options={"final_learning_rate": 0.01})
    strategy, rates = method(learning), []
    after_update = strategy.after_update

    def watch(batch: Batch, at: Position) -> None:
        rates.append(strategy.context.optimizers["network"].param_groups[0]["lr"])
        after_update(batch, at)

    strategy.after_update = watch  # type: ignore[method-assign]
    learning.run_task()
    assert rates == pytest.approx([1e-2 * 0.01 ** (update / 10) for update in range(10)])


# -- as a whole ------------------------------------------------------------------------------------------------


def permuted(seed: int, **options: Any) -> AccuracyMatrix:
    stream = {"name": "permuted", "dataset": "digits", "tasks": 3, "normalize": "mean_std"}
    training = {**PAPER, "batch_size": 32, "epochs": 8}
    options = {"penalty": 0.1, **options}
    return matrix(
        trial("hat", "task", seed=seed, options=options, stream=stream, training=training, model={"hidden": [64, 64]})
    )


@pytest.mark.parametrize("seed", range(3))
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
