"""PackNet as a whole: what was learned stays to the last bit, with batch norm too; shares; and its mutants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from old_answers import OPTIMIZERS, check_old_answers
from support import TINY, finish, matrix, trainer, trial
from torch import Tensor

from raycl.errors import MethodError
from raycl.learning.ownership import Ownership
from raycl.strategies.base import Position
from raycl.strategies.packnet import PackNet
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer


def running(**blocks: Any) -> Trainer:
    return trainer(trial("packnet", "task", **blocks))


def method(trainer: Trainer) -> PackNet:
    assert isinstance(trainer.strategy, PackNet)
    return trainer.strategy


@pytest.mark.parametrize(
    "model", [{"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "batch"}, {"norm": "batch"}]
)
def test_old_logits_stay_with_batch_norm(model: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if "name" in model:
        monkeypatch.setitem(TINY, "model", {})
    check_old_answers(running(model=model, training=OPTIMIZERS["sgd"]), monkeypatch)


class ZeroesGradientsOnly(PackNet):
    """A mutant: relies on gradients of zero to keep weights."""

    def after_update(self, batch: Batch, at: Position) -> None:
        pass


class MasksInPlace(PackNet):
    """A mutant: writes the zeros of a task's view into the live weights."""

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        assert task is not None
        weights = self._weights()
        for name, visible in self.ownership.visible(weights, task).items():
            weights[name].copy_(visible)
        return super().predict(x, task)


class MovesStatistics(PackNet):
    """A mutant: batch norm goes on learning after the first task."""

    def train(self, mode: bool) -> None:
        self.network.train(mode)


class SeesTooMuch(PackNet):
    """A mutant: a task is answered with all weights, those of later tasks included."""

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        return self.network(x)


@pytest.mark.parametrize("mutant", [ZeroesGradientsOnly, MasksInPlace, MovesStatistics, SeesTooMuch])
def test_mutants_of_the_update_and_of_the_answer_are_caught(
    mutant: type[PackNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raycl.strategies.packnet.PackNet", mutant)
    with pytest.raises(AssertionError, match="after task"):
        check_old_answers(running(model={"norm": "batch"}, training=OPTIMIZERS["sgd"]), monkeypatch)


def shares(trainer: Trainer, name: str) -> list[float]:
    """The part of a layer's weights that each task owns."""
    ownership = method(trainer).ownership
    return [float(ownership.owned(name, task).float().mean()) for task in range(trainer.num_tasks)]


def check_shares(fraction: float | str, expected: Callable[[int], float]) -> None:
    learning = running(options={"prune_fraction": fraction}, model={"hidden": [32, 16]})
    finish(learning)
    for name, owner in method(learning).ownership.owner.items():
        for task, share in enumerate(shares(learning, name)):
            assert abs(share - expected(task)) <= 1.5 / owner.numel()


def test_each_task_owns_its_share() -> None:
    check_shares(0.6, lambda task: 0.4 * 0.6**task)
    check_shares("equal_share", lambda task: 1 / 3)


# -- what is left for later tasks ---------------------------------------------------------------------------------


def free_weights(options: dict[str, Any], hidden: list[int] | None = None) -> list[float]:
    learning = running(options=options, model={"hidden": hidden or [32, 16]})
    return [row.measures["free_weights"] for row in finish(learning) if row.task >= 0]


def test_the_share_of_free_weights_is_a_result_of_each_task() -> None:
    assert free_weights({"prune_fraction": 0.6}) == pytest.approx([0.6, 0.36, 0.216], abs=1e-3)
    assert free_weights({"prune_fraction": "equal_share"}) == pytest.approx([2 / 3, 1 / 3, 0], abs=1e-3)
    assert free_weights({"prune_fraction": 0.0}) == [0, 0, 0]


def check_used_up_is_told() -> None:
    """Nothing pruned leaves the second task nothing; the last task may take all that is left."""
    for fraction, told in ((0.0, [True, True, False]), ("equal_share", [False, False, False])):
        learning, found = running(options={"prune_fraction": fraction}), []
        finish(learning, lambda trainer, found=found: found.append(method(trainer).warnings()))
        assert [bool(texts) for texts in found] == told
        if fraction == 0.0:
            ((text,), _, _) = found
            assert text.startswith("no weight of any layer is free for the tasks to come")
            assert "raise prune_fraction (got 0.0)" in text


def test_capacity_that_is_used_up_is_told() -> None:
    check_used_up_is_told()


def test_a_layer_that_is_used_up_alone_is_named() -> None:
    """Of a single weight nothing is pruned: round(.2) is 0."""
    learning = running(options={"prune_fraction": 0.2}, model={"hidden": [16, 1, 1]})
    learning.run_task()
    (text,) = method(learning).warnings()
    assert "no weight of 5.weight is free" in text


class GoesOnWithoutAWord(PackNet):
    """A mutant: heads on a trunk that does not move, and nobody knows."""

    def warnings(self) -> tuple[str, ...]:
        return ()


def test_going_on_without_a_word_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.packnet.PackNet", GoesOnWithoutAWord)
    with pytest.raises(AssertionError):
        check_used_up_is_told()


class RanksAllLayers(Ownership):
    """A mutant: one ranking over the layers, so that a layer of small weights loses more than its share."""

    def prune(self, weights: Any, task: int, fraction: float) -> None:
        sizes = torch.cat([weights[name].detach()[self.owned(name, task)].abs() for name in self.owner])
        limit = sizes.sort().values[int(fraction * len(sizes))]
        for name, owner in self.owner.items():
            freed = self.owned(name, task) & (weights[name].detach().abs() < limit)
            owner[freed] = 0
            weights[name].data[freed] = 0


def test_a_ranking_over_all_layers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.packnet.Ownership", RanksAllLayers)
    with pytest.raises(AssertionError):
        check_shares(0.6, lambda task: 0.4 * 0.6**task)


def test_pruned_weights_are_zero_during_retraining(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"train": 0, "retrain": 0}

    class Watched(PackNet):
        def after_update(self, batch: Batch, at: Position) -> None:
            super().after_update(batch, at)
            seen[at.phase] += 1
            for name, weight in self._weights().items():
                free = self.ownership.owner[name] == 0
                assert bool(free.any()) == (at.phase == "retrain")
                assert not weight[free].any()

    monkeypatch.setattr("raycl.strategies.packnet.PackNet", Watched)
    learning = running(training=OPTIMIZERS["sgd"])
    rows = finish(learning)
    assert seen["retrain"] == seen["train"] // 2
    assert sum(row.cost.updates for row in rows) == seen["train"] + seen["retrain"]


def test_kept_weights_are_retrained_at_a_lower_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: dict[str, set[float]] = {"train": set(), "retrain": set()}

    class Watched(PackNet):
        def after_update(self, batch: Batch, at: Position) -> None:
            super().after_update(batch, at)
            rates[at.phase].add(self.context.optimizers["network"].param_groups[0]["lr"])

    monkeypatch.setattr("raycl.strategies.packnet.PackNet", Watched)
    finish(running(training={"learning_rate": 1e-2, "iterations": 6}))
    assert rates == {"train": {1e-2}, "retrain": {1e-2 * 0.1}}


def test_only_the_first_task_moves_biases_and_only_its_own_rows_of_the_head() -> None:
    learning = running(training=OPTIMIZERS["sgd"])
    learning.run_task()
    network = method(learning).network
    bias, head = network.backbone[1].bias.detach().clone(), network.head.weight.detach().clone()
    assert len(head) == 2
    learning.run_task()
    assert torch.equal(network.backbone[1].bias, bias)
    assert torch.equal(network.head.weight[:2], head)


def test_without_pruning_the_second_task_trains_its_head_alone() -> None:
    learning = running(options={"prune_fraction": 0.0})
    learning.run_task()
    before = {name: value.clone() for name, value in method(learning).network.backbone.state_dict().items()}
    learning.run_task()
    after = method(learning).network.backbone.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert not method(learning).ownership.owned("1.weight", 1).any()


def test_nothing_is_forgotten_and_each_task_is_learned() -> None:
    result = matrix(trial("packnet", "task", training={"learning_rate": 1e-2, "epochs": 6}))
    assert result.backward_transfer() == 0
    assert result.average_accuracy() > 0.93


def test_owners_are_charged_as_packed_bits() -> None:
    learning = running()
    charged = [row.cost.state_bytes for row in finish(learning) if row.task >= 0]
    owned = 64 * 32
    network = [4 * (owned + 32 + 33 * outputs) for outputs in (2, 4, 6)]
    assert charged == [size + owned * bits // 8 for size, bits in zip(network, (1, 2, 2), strict=True)]


def test_it_needs_a_head_per_task_and_the_task_id() -> None:
    with pytest.raises(MethodError, match=r"set model\.head: per_task"):
        running(model={"head": "single"})
    with pytest.raises(MethodError, match="needs the task id"):
        running().strategy.predict(torch.zeros(1, 1, 8, 8), None)
