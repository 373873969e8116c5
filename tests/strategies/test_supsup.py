"""SupSup on digits: nothing is forgotten, masks are bits, and a hidden task id is inferred; and the mutants."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from strategies.supsup_trials import OPTIMIZERS, images, method, running
from support import TINY, finish, matrix, trial
from torch import Tensor

from raycl.models.masked import erdos_renyi
from raycl.strategies import supsup
from raycl.strategies.base import TaskData, Trainable
from raycl.strategies.supsup import SupSup
from raycl.trial.trainer import Trainer


def answers(running: Trainer, task: int) -> Tensor:
    """Logits of a task's own units, its id given."""
    units = method(running).context.scenario.units(task)
    running.strategy.train(False)
    with torch.no_grad():
        return running.strategy.predict(images(running), task)[:, units.start : units.stop].clone()


# -- what is learned stays -----------------------------------------------------------------------------------------


def check_old_answers(learning: Trainer) -> None:
    """Every task's logits when it was learned, and after every later task; W itself as it was drawn."""
    fixed = {name: value.clone() for name, value in method(learning).network.named_parameters()}
    learned: list[Tensor] = []

    def compare(running: Trainer) -> None:
        for task, before in enumerate(learned):
            assert torch.equal(answers(running, task), before), f"task {task} after task {running.next_task - 1}"
        learned.append(answers(running, running.next_task - 1))

    finish(learning, compare)
    assert not torch.equal(learned[0], learned[1])
    for name, value in method(learning).network.named_parameters():
        assert torch.equal(value, fixed[name]), name


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("selection", ["top_k", "threshold"])
def test_old_logits_and_the_weights_stay_to_the_last_bit(optimizer: str, selection: str) -> None:
    check_old_answers(running(training=OPTIMIZERS[optimizer], options={"selection": selection}))


@pytest.mark.parametrize(
    "model", [{"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "batch"}, {"norm": "batch"}]
)
def test_old_logits_stay_with_batch_norm(model: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if "name" in model:
        monkeypatch.setitem(TINY, "model", {})
    check_old_answers(running(model=model, training=OPTIMIZERS["sgd"]))


class LiveMasks(SupSup):
    """A mutant: scores of finished tasks stay in the optimiser, whose weight decay moves them, and make the masks."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.all_scores: list[Any] = []

    def grow(self, task: int) -> None:
        super().grow(task)
        self.all_scores.append(self.scores)

    def trainable(self, task: int) -> Any:
        parameters = [p for scores in self.all_scores for p in scores.values()]
        return {"scores": Trainable.of(parameters)}

    def after_update(self, *given: Any) -> None:
        for scores in self.all_scores[: self.task]:  # a decay without a gradient, as an optimiser with zeros would
            for value in scores.values():
                value.data.sub_(0.02)

    def _logits(self, task: int, x: Tensor) -> Tensor:
        self.scores = self.all_scores[task]
        self.bits[task] = self.masked.pack(self._decided())
        return super()._logits(task, x)


class SharedScores(LiveMasks):
    """A mutant: one tensor of scores for all tasks."""

    def grow(self, task: int) -> None:
        super().grow(task)
        self.scores = self.all_scores[task] = self.all_scores[0]

    def after_update(self, *given: Any) -> None:
        pass

    def trainable(self, task: int) -> Any:
        return SupSup.trainable(self, task)


class SharedStatistics(SupSup):
    """A mutant: old tasks are answered with the running statistics of the newest."""

    def end_task(self, task: int, data: TaskData) -> None:
        super().end_task(task, data)
        self._normed = [self._normed[-1]] * len(self._normed)


@pytest.mark.parametrize("mutant", [LiveMasks, SharedScores, SharedStatistics])
def test_mutants_that_forget_are_caught(mutant: type[SupSup], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supsup, "SupSup", mutant)
    learning = running(model={"norm": "batch"}, training=OPTIMIZERS["sgd"], options={"selection": "threshold"})
    with pytest.raises(AssertionError, match="after task"):
        check_old_answers(learning)


def test_nothing_is_forgotten_and_each_task_is_learned() -> None:
    result = matrix(trial("supsup", "task", model={"hidden": [64]}, training={"learning_rate": 5e-3, "epochs": 6}))
    assert result.backward_transfer() == 0
    assert result.average_accuracy() > 0.95


# -- weights and masks ---------------------------------------------------------------------------------------------


def test_weights_follow_from_the_seed_and_are_not_in_the_state() -> None:
    one = running(seed=5)
    one.run_task()
    state = one.strategy.state_dict()
    assert set(state) == {"seed", "masks", "statistics"}
    assert sum(bits.numel() for bits in state["masks"]) == -(-method(one).masked.numel // 8)
    same, other = running(seed=5), running(seed=6)
    assert torch.equal(method(same).masked.flat(), method(one).masked.flat())
    assert not torch.equal(method(other).masked.flat(), method(one).masked.flat())
    other.strategy.grow(0)
    other.strategy.load_state_dict(json.loads(json.dumps({"seed": state["seed"]})) | state)
    assert torch.equal(answers(other, 0), answers(one, 0)), "masks and seed are all that it takes"


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5])
def test_a_mask_keeps_its_share_of_every_layer(fraction: float) -> None:
    learning = running(options={"kept_fraction": fraction})
    finish(learning)
    for bits in method(learning).bits:
        for name, mask in method(learning).masked.split(method(learning).masked.unpack(bits)).items():
            assert abs(float(mask.float().mean()) - fraction) < 0.01, name


def test_a_threshold_keeps_about_half() -> None:
    learning = running(options={"selection": "threshold"})
    learning.run_task()
    strategy = method(learning)
    assert 0.4 < float(strategy.masked.unpack(strategy.bits[0]).float().mean()) < 0.6


def check_scores_begin_anew() -> None:
    learning = running()
    drawn: list[Tensor] = []
    for task in range(3):
        learning.strategy.grow(task)
        drawn.append(torch.cat([scores.detach().flatten() for scores in method(learning).scores.values()]))
        for scores in method(learning).scores.values():
            scores.data.add_(1.0)
    assert all(0 < float(scores.abs().max()) <= 1 / 32**0.5 for scores in drawn)
    assert not torch.equal(drawn[0], drawn[1])


def test_scores_are_drawn_anew_for_every_task() -> None:
    check_scores_begin_anew()


def test_scores_that_are_handed_on_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supsup, "SupSup", SharedScores)
    with pytest.raises(AssertionError):
        check_scores_begin_anew()


def test_finished_tasks_are_charged_as_bits() -> None:
    learning = running(options={"extra_outputs": 6})
    charged = [row.cost.state_bytes for row in finish(learning) if row.task >= 0]
    bits = 64 * 32 + 32 * (2 + 6)
    assert charged == [bits // 8 * tasks for tasks in (1, 2, 3)]
    assert not method(learning).scores
    assert learning.strategy.parameter_count() == bits


def test_superfluous_units_compete_in_training_and_never_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = set()
    loss = torch.nn.functional.cross_entropy

    def watched(logits: Tensor, y: Tensor, **options: Any) -> Tensor:
        widths.add(logits.shape[1])
        assert int(y.max()) < 2
        return loss(logits, y, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", watched)
    learning = running("class", options={"extra_outputs": 5})
    finish(learning)
    assert widths == {2 + 5}
    logits = learning.strategy.predict(images(learning), None)
    assert logits.shape == (50, 6)
    assert bool((logits.isfinite().sum(1) == 2).all())


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_tasks_of_different_sizes_answer_with_their_own_units(scenario: str) -> None:
    stream = {"tasks": 3, "classes_per_task": 3, "first_task": 2}
    learning = running(scenario, stream=stream, training={"iterations": 3})
    finish(learning)
    for task, units in enumerate((range(2), range(2, 5), range(5, 8))):
        logits = learning.strategy.predict(images(learning), task)
        assert [unit for unit in range(8) if logits[0, unit].isfinite()] == list(units)


# -- how many weights a mask keeps -----------------------------------------------------------------------------------


def kept_by_layer(**options: Any) -> dict[str, float]:
    """64 pixels, layers of 100 and 20 units, and a head of 2 classes and 8 superfluous units."""
    learning = running(model={"hidden": [100, 20]}, options={"extra_outputs": 8, **options})
    learning.run_task()
    strategy = method(learning)
    masks = strategy.masked.split(strategy.masked.unpack(strategy.bits[0]))
    return {name: float(mask.float().mean()) for name, mask in masks.items()}


def test_every_layer_keeps_the_same_share_or_large_ones_less() -> None:
    """Erdos-Renyi by hand: 8 (64 + 100) / 6400, 8 (100 + 20) / 2000, and min(1/2, 8 (20 + 10) / 200)."""
    even = kept_by_layer(kept_fraction=0.3)
    assert list(even.values()) == pytest.approx([0.3, 0.3, 0.3], abs=0.003)
    uneven = kept_by_layer(sparsity="erdos_renyi")
    assert list(uneven.values()) == pytest.approx([0.205, 0.48, 0.5], abs=1e-4)
    half = kept_by_layer(sparsity="erdos_renyi", erdos_renyi_scale=4.0)
    assert list(half.values()) == pytest.approx([0.1025, 0.24, 0.5], abs=1e-4)


def test_a_uniform_budget_called_erdos_renyi_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supsup, "erdos_renyi", lambda shape, scale: 0.5)
    uneven = kept_by_layer(sparsity="erdos_renyi")
    assert list(uneven.values()) == pytest.approx([0.5, 0.5, 0.5], abs=1e-3)


def test_channels_and_not_positions_count() -> None:
    """A convolution of 3 x 3 from 8 to 16 channels: (16 + 8) / (16 * 8 * 9)."""
    assert erdos_renyi(torch.Size([16, 8, 3, 3]), 1.0) == pytest.approx(24 / 1152)
    assert erdos_renyi(torch.Size([16, 8, 3, 3]), 32.0) == 0.5
