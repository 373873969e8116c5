"""Piggyback on digits: the backbone never moves, masks learn by gradients through them; and its mutants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pretraining import made, weights_file
from support import TINY, counts, evaluation_rows, finish, local_source, matrix, trainer, trial
from torch import Tensor, nn
from torch.func import functional_call

from raycl.errors import MethodError, SpecError
from raycl.strategies import piggyback
from raycl.strategies.base import Position, Strategy, TaskData
from raycl.strategies.piggyback import Piggyback
from raycl.streams.task import Batch
from raycl.trial import checkpoint
from raycl.trial.trainer import Trainer

FAST = {"mask_learning_rate": 1.0}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.3, "momentum": 0.9, "weight_decay": 1e-2},
    "adam": {"optimizer": "adam", "weight_decay": 1e-2},
    "adamw": {"optimizer": "adamw", "weight_decay": 1e-1},
    "kept": {"optimizer": "adam", "weight_decay": 1e-2, "reset_optimizer": False, "gradient_clip": 0.5},
}


def running(**blocks: Any) -> Trainer:
    return trainer(trial("piggyback", "task", options={**FAST, **blocks.pop("options", {})}, **blocks))


def method(running: Trainer) -> Piggyback:
    assert isinstance(running.strategy, Piggyback)
    return running.strategy


def images(running: Trainer) -> Tensor:
    shape = method(running).context.image_shape
    return torch.rand(50, *shape, generator=torch.Generator().manual_seed(0))


def answers(running: Trainer, task: int) -> Tensor:
    """Logits of a task's own units."""
    units = method(running).context.scenario.units(task)
    running.strategy.train(False)
    with torch.no_grad():
        return running.strategy.predict(images(running), task)[:, units.start : units.stop].clone()


# -- what is learned stays -----------------------------------------------------------------------------------------


def check_old_answers(learning: Trainer) -> None:
    """Every task's logits when it was learned, and after every later task; the backbone from the second task on."""
    learned: list[Tensor] = []
    fixed: dict[str, Tensor] = {}

    def compare(running: Trainer) -> None:
        state = method(running).network.backbone.state_dict()
        for name, value in fixed.items():
            assert torch.equal(state[name], value), f"{name} after task {running.next_task - 1}"
        fixed.update({name: value.clone() for name, value in state.items()})
        for task, before in enumerate(learned):
            assert torch.equal(answers(running, task), before), f"task {task} after task {running.next_task - 1}"
        learned.append(answers(running, running.next_task - 1))

    finish(learning, compare)
    masks = [bits for bits in method(learning).bits if bits is not None]
    assert not torch.equal(masks[0], masks[1]), "masks have moved"


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_old_logits_and_the_backbone_stay_to_the_last_bit(optimizer: str) -> None:
    check_old_answers(running(training=OPTIMIZERS[optimizer]))


@pytest.mark.parametrize(
    ("model", "stream"),
    [
        ({"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "batch"}, {}),
        ({"name": "resnet32", "width": 2}, {"pad": 4, "train_per_task": 40}),
        ({"name": "mlp", "hidden": [32], "norm": "batch"}, {}),
    ],
)
def test_old_logits_stay_with_batch_norm(
    model: dict[str, Any], stream: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TINY, "model", {})
    check_old_answers(running(model=model, stream=stream, training=OPTIMIZERS["sgd"]))


class SharedScores(Piggyback):
    """A mutant: one tensor of scores for all tasks, from which every mask is made."""

    def grow(self, task: int) -> None:
        before = self.scores
        super().grow(task)
        self.scores = before or self.scores

    def end_task(self, task: int, data: TaskData) -> None:
        self.bits.append(self._packed() if task else None)
        self.bits = [None if bits is None else self.bits[-1] for bits in self.bits]


class LearnsOn(Piggyback):
    """A mutant: weights keep their gradients, and their place in the optimiser."""

    def grow(self, task: int) -> None:
        super().grow(task)
        self.network.backbone.requires_grad_(True)

    def trainable(self, task: int) -> Any:
        groups = dict(super().trainable(task))
        return groups | {"backbone": Strategy.trainable(self, task)["network"]} if task else groups


class MovesStatistics(Piggyback):
    """A mutant: batch norm goes on learning."""

    def train(self, mode: bool) -> None:
        self.network.train(mode)


class LeavesOtherHeads(Piggyback):
    """A mutant: relies on gradients of zero to keep the heads of other tasks."""

    def learning_units(self, task: int) -> None:
        return None

    def after_update(self, batch: Batch, at: Position) -> None:
        pass


@pytest.mark.parametrize("mutant", [SharedScores, LearnsOn, MovesStatistics, LeavesOtherHeads])
def test_mutants_that_forget_are_caught(mutant: type[Piggyback], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piggyback, "Piggyback", mutant)
    with pytest.raises(AssertionError, match="after task"):
        check_old_answers(running(model={"norm": "batch"}, training=OPTIMIZERS["sgd"]))


def test_nothing_is_forgotten_and_each_task_is_learned() -> None:
    result = matrix(trial("piggyback", "task", options=FAST, training={"epochs": 8}, model={"hidden": [64]}))
    assert result.backward_transfer() == 0
    assert result.average_accuracy() > 0.93


def test_masks_add_to_what_a_head_alone_learns() -> None:
    """With scores that cannot reach the threshold, only the head learns: feature extraction."""
    training = {"epochs": 8}
    masked, head = (
        matrix(trial("piggyback", "task", options={"mask_learning_rate": rate}, training=training))
        for rate in (1.0, 1e-9)
    )
    assert masked.average_accuracy() > head.average_accuracy() + 0.02


# -- masks ---------------------------------------------------------------------------------------------------------


def begun() -> Trainer:
    """Where the second task is about to be learned."""
    learning = running()
    learning.run_task()
    learning.strategy.grow(1)
    learning.strategy.train(True)
    return learning


def batch_of(learning: Trainer, task: int) -> Batch:
    return evaluation_rows(learning, task)[torch.arange(20)]


def check_score_gradients() -> None:
    """dL/dscore = dL/d(W * m) * W, with dL/d(W * m) found on a copy of the backbone whose weights learn."""
    learning = begun()
    strategy, batch = method(learning), batch_of(learning, 1)
    for index, scores in enumerate(strategy.scores.values()):
        scores.data.uniform_(0, 1e-2, generator=torch.Generator().manual_seed(index))
    strategy.loss(batch)["task"].backward()
    weights = strategy.masked.weights()
    effective = {
        name: (weight * (strategy.scores[name] > 5e-3)).detach().requires_grad_() for name, weight in weights.items()
    }
    features = functional_call(strategy.network.backbone, effective, (batch.x,))
    rows = slice(*(strategy.context.scenario.units(1)[0], strategy.context.scenario.units(1)[-1] + 1))
    logits = nn.functional.linear(features, strategy.network.head.weight[rows], strategy.network.head.bias[rows])
    nn.functional.cross_entropy(logits, batch.y - 2).backward()
    for name, weight in weights.items():
        found, by_weight = strategy.scores[name].grad, effective[name].grad
        assert found is not None
        assert by_weight is not None
        assert found.abs().max() > 1e-5
        assert torch.allclose(found, by_weight * weight, rtol=1e-5, atol=1e-6)
        assert weight.grad is None


def test_scores_learn_by_the_gradient_of_the_masked_weight_times_the_weight() -> None:
    check_score_gradients()


def test_gradients_without_the_weight_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(self: piggyback.MaskedWeights, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        values = {name: weight * masks[name].detach() for name, weight in self.weights().items()}
        return {name: value + masks[name] - masks[name].detach() for name, value in values.items()}

    monkeypatch.setattr(piggyback.MaskedWeights, "apply", apply)
    with pytest.raises(AssertionError):
        check_score_gradients()


@pytest.mark.parametrize("values", ["binary", "ternary"])
def test_a_task_begins_with_the_backbone_itself(values: str) -> None:
    learning = running(options={"values": values})
    learning.run_task()
    strategy = method(learning)
    strategy.grow(1)
    x = images(learning)
    with torch.no_grad():
        features = strategy.network.backbone(x)
        weights = strategy.masked.apply(strategy._decided())
        assert torch.equal(functional_call(strategy.network.backbone, weights, (x,)), features)
        masked = strategy.network.head.own(strategy._features(strategy._decided(), x), range(2))
        assert torch.equal(masked, answers(learning, 0))


@pytest.mark.parametrize("values", ["binary", "ternary"])
def test_stored_bits_are_the_mask_that_was_learned(values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    live: list[dict[str, Tensor]] = []
    end_task = Piggyback.end_task

    def watched(self: Piggyback, task: int, data: TaskData) -> None:
        live.append({name: mask.detach() for name, mask in self._decided().items()})
        end_task(self, task, data)

    monkeypatch.setattr(Piggyback, "end_task", watched)
    learning = running(options={"values": values, "mask_learning_rate": 10.0})
    finish(learning)
    for masks, bits in zip(live[1:], method(learning).bits[1:], strict=True):
        assert bits is not None
        stored = method(learning)._stored(bits)
        assert all(torch.equal(stored[name], mask) for name, mask in masks.items())
        found = set(torch.cat([mask.flatten() for mask in masks.values()]).tolist())
        assert found == ({0, 1} if values == "binary" else {-1, 0, 1})


def test_stored_masks_reload_to_the_same_answers() -> None:
    learning = running()
    finish(learning)
    again = running()
    again.load_state_dict(checkpoint.decode(checkpoint.encode(learning.state_dict())))
    for task in range(3):
        assert torch.equal(answers(again, task), answers(learning, task))
    measured = [trainer._evaluator.measure(trainer.strategy, 2)[0].tolist() for trainer in (learning, again)]
    assert measured[0] == measured[1]


def kept(learning: Trainer) -> float:
    finish(learning)
    bits = method(learning).bits[1]
    assert bits is not None
    return float(method(learning).masked.unpack(bits).float().mean())


class DecaysScores(Piggyback):
    """A mutant: scores take the weight decay of the other parameters."""

    def trainable(self, task: int) -> Any:
        given = super().trainable(task)
        for entry in given.values():
            for group in entry.groups:
                group.pop("weight_decay", None)
        return given


def test_weight_decay_does_not_close_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    decay = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 1.0}
    assert kept(running(training=decay)) > 0.9
    monkeypatch.setattr(piggyback, "Piggyback", DecaysScores)
    assert kept(running(training=decay)) < 0.5


def test_masks_are_charged_as_bits() -> None:
    charged = [row.cost.state_bytes for row in finish(running()) if row.task >= 0]
    network = [4 * (64 * 32 + 32 + 33 * outputs) for outputs in (2, 4, 6)]
    assert charged == [size + task * 64 * 32 // 8 for task, size in enumerate(network)]
    ternary = [row.cost.state_bytes for row in finish(running(options={"values": "ternary"})) if row.task >= 0]
    assert ternary[2] - network[2] == 2 * (charged[2] - network[2])


def test_pretrained_weights_serve_from_the_first_task_on(tmp_path: Path) -> None:
    model = {"hidden": [12], "weights": weights_file(tmp_path)}
    spec = trial("piggyback", "task", model=model, options={**FAST, "freeze": "from_start"}, training={"epochs": 6})
    learning = Trainer(spec, local_source(spec.stream, spec.seed), data_root=tmp_path)
    rows = finish(learning)
    for name, value in made().tensors.items():
        assert torch.equal(method(learning).network.backbone.state_dict()[name], value)
    assert all(bits is not None for bits in method(learning).bits)
    assert rows[-1].correct.sum() / rows[-1].total.sum() > 0.8
    again = Trainer(spec, local_source(spec.stream, spec.seed), data_root=tmp_path)
    assert counts(finish(again)) == counts(rows)


@pytest.mark.parametrize(
    ("blocks", "error", "rule"),
    [
        ({"model": {"head": "single"}}, MethodError, r"set model\.head: per_task"),
        ({"training": {"active_logits": "seen"}}, SpecError, "its own task's head only"),
        ({"model": {"hidden": []}}, MethodError, "give the model a hidden layer"),
        ({"options": {"initial_score": 1e-3}}, ValueError, "must lie above threshold"),
    ],
)
def test_what_does_not_go_together_is_refused(blocks: dict[str, Any], error: type[Exception], rule: str) -> None:
    with pytest.raises(error, match=rule):
        running(**blocks)


def test_it_needs_the_task_id() -> None:
    with pytest.raises(MethodError, match="needs the task id"):
        running().strategy.predict(torch.zeros(1, 1, 8, 8), None)


def test_a_task_answers_while_it_is_learned_as_it_does_once_it_has_ended() -> None:
    learning = begun()
    strategy, x = method(learning), evaluation_rows(learning, 1).x
    strategy.train(False)
    with torch.no_grad():
        next(iter(strategy.scores.values()))[::2] = -1.0
        during = strategy.predict(x, 1)
        assert len(strategy.bits) == 1
        strategy.bits.append(strategy._packed())
        assert torch.equal(strategy.predict(x, 1), during)
        strategy.bits[1] = None
        assert not torch.equal(strategy.predict(x, 1), during)  # the mutant: the whole backbone answers
