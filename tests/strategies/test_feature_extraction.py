"""Feature extraction: the frozen trunk stays to the last bit, statistics included; and what is learned on top of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import NORMED, TINY, counts, finish, matrix, trainer, trial
from torch import Tensor

from raycl.strategies.base import Epochs, Position, Rows, Source, Strategy, TaskData, Updates
from raycl.strategies.feature_extraction import FeatureExtraction
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

DECAY = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-2}


def running(scenario: str = "class", **blocks: Any) -> Trainer:
    return trainer(trial("feature_extraction", scenario, **blocks))


def method(trainer: Trainer) -> FeatureExtraction:
    assert isinstance(trainer.strategy, FeatureExtraction)
    return trainer.strategy


def fingerprint(trainer: Trainer) -> str:
    """Of every number of the trunk, running statistics and counters included."""
    state = method(trainer).network.backbone.state_dict()
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()


def features(trainer: Trainer) -> Tensor:
    channels, height, width = method(trainer).context.image_shape
    images = torch.rand(20, channels, height, width, generator=torch.Generator().manual_seed(0))
    trainer.strategy.train(False)
    with torch.no_grad():
        return method(trainer).network.backbone(images)


def check_frozen_trunk(learning: Trainer) -> None:
    """After the first task, or from the start, no bit of the trunk moves."""
    drawn = fingerprint(learning)
    learning.run_task()
    assert (fingerprint(learning) == drawn) == (method(learning).config.freeze == "from_start")
    trunk, before = fingerprint(learning), features(learning)
    while not learning.done:
        learning.run_task()
        assert fingerprint(learning) == trunk, "the trunk moved"
        assert torch.equal(features(learning), before)


@pytest.mark.parametrize("freeze", ["after_first_task", "from_start"])
@pytest.mark.parametrize("augment", ["none", "flip"], ids=["kept", "augmented"])
@pytest.mark.parametrize("model", list(NORMED))
def test_the_trunk_stays_to_the_last_bit(
    model: str, augment: str, freeze: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TINY, "model", {})
    stream = {"augment": augment, "pad": 4 if model == "resnet32" else 0, "train_per_task": 60}
    check_frozen_trunk(running(model=NORMED[model], stream=stream, options={"freeze": freeze}, training=DECAY))


class Trains(FeatureExtraction):
    """A mutant: the frozen trunk stays in training mode."""

    def train(self, mode: bool) -> None:
        self.network.train(mode)

    def _of(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.network.backbone(x)


class Moves(FeatureExtraction):
    """A mutant: the trunk stays in the optimiser, with gradients of zero."""

    def trainable(self, task: int) -> Any:
        return Strategy.trainable(self, task)

    def grow(self, task: int) -> None:
        super().grow(task)
        self.network.backbone.requires_grad_(True)

    def _of(self, x: Tensor) -> Tensor:
        return self.network.backbone(x)

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        for parameter in self.network.backbone.parameters() if at.task else ():
            parameter.grad = torch.zeros_like(parameter)


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet32"])
@pytest.mark.parametrize("mutant", [Trains, Moves])
def test_a_trunk_in_training_mode_or_in_the_optimiser_is_caught(
    model: str, mutant: type[FeatureExtraction], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TINY, "model", {})
    monkeypatch.setattr("raycl.strategies.feature_extraction.FeatureExtraction", mutant)
    stream = {"augment": "flip", "pad": 4 if model == "resnet32" else 0, "train_per_task": 60}
    with pytest.raises(AssertionError, match="the trunk moved"):
        check_frozen_trunk(running(model=NORMED[model], stream=stream, training=DECAY))


# -- kept features ---------------------------------------------------------------------------------------------------


class Uncached(FeatureExtraction):
    """The same method, which puts every batch through the trunk."""

    def _is_seen_again(self, data: TaskData) -> bool:
        return False


class Shuffled(FeatureExtraction):
    """A mutant: features and labels in different orders."""

    def _extract(self, data: TaskData) -> Rows:
        rows = super()._extract(data)
        return replace(rows, x=rows.x.flip(0))


def check_kept_features(kept: type[FeatureExtraction], monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for used in (kept, Uncached):
        monkeypatch.setattr("raycl.strategies.feature_extraction.FeatureExtraction", used)
        learning = running(model={"norm": "batch"})
        finish(learning)
        states.append(learning.strategy.network.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-5, atol=1e-6)


def test_kept_features_teach_what_the_trunk_would(monkeypatch: pytest.MonkeyPatch) -> None:
    check_kept_features(FeatureExtraction, monkeypatch)


def test_features_of_other_rows_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        check_kept_features(Shuffled, monkeypatch)


@pytest.mark.parametrize(
    ("blocks", "source"),
    [
        ({}, Rows),
        ({"stream": {"augment": "flip"}}, None),
        ({"training": {"epochs": 1}}, None),
        ({"training": {"iterations": 2}}, None),
        ({"training": {"iterations": 40}}, Rows),
    ],
)
def test_features_are_kept_where_rows_come_back_unchanged(
    blocks: dict[str, Any], source: type | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = running(**blocks)
    learning.run_task()
    strategy, seen = method(learning), []
    phases = strategy.phases

    def recorded(task: int) -> Any:
        seen.extend(phases(task))
        return seen

    monkeypatch.setattr(strategy, "phases", recorded)
    learning.run_task()
    (phase,) = seen
    assert isinstance(phase.source, Rows) == (source is Rows)
    assert isinstance(phase.length, Updates if "iterations" in blocks.get("training", {}) else Epochs)


# -- the head --------------------------------------------------------------------------------------------------------


def old_rows(trainer: Trainer, count: int) -> Tensor:
    head = method(trainer).network.head
    return torch.cat([head.weight, head.bias[:, None]], dim=1)[:count].detach().clone()


def check_old_rows(learning: Trainer) -> None:
    learning.run_task()
    before = old_rows(learning, 2)
    learning.run_task()
    assert torch.equal(old_rows(learning, 2), before), "old rows moved"


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_old_rows_of_the_head_stay(scenario: str) -> None:
    check_old_rows(running(scenario, training={**DECAY, "reset_optimizer": False}))


class LeavesGradientsOfZero(FeatureExtraction):
    """A mutant: relies on gradients of zero to keep old rows."""

    def learning_units(self, task: int) -> None:
        return None


def test_old_rows_that_decay_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.feature_extraction.FeatureExtraction", LeavesGradientsOfZero)
    with pytest.raises(AssertionError, match="old rows moved"):
        check_old_rows(running(training=DECAY))


def test_old_rows_compete_where_all_units_seen_are_asked_for() -> None:
    with pytest.raises(AssertionError, match="old rows moved"):
        check_old_rows(running(training={"active_logits": "seen"}))


def test_the_softmax_that_is_used_is_recorded() -> None:
    asked = {
        ("class", "auto"): "current",
        ("class", "seen"): "seen",
        ("task", "auto"): "own",
        ("domain", "auto"): "all",
    }
    for (scenario, policy), expected in asked.items():
        learning = running(scenario, training={"active_logits": policy})
        assert learning.strategy.active_logits() == expected


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_first_task_is_learned_as_naive_learns_it(scenario: str) -> None:
    naive, learning = trainer(trial("naive", scenario)), running(scenario)
    assert counts(naive.run_task()) == counts(learning.run_task())
    ours, theirs = (each.strategy.network.state_dict() for each in (learning, naive))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


# -- closed forms ----------------------------------------------------------------------------------------------------


def training_rows(trainer: Trainer, task: int) -> Batch:
    pool = trainer._rows.pool(Source.CURRENT, task)[0]
    return pool.gather(torch.arange(len(pool)), augment=False)


@pytest.mark.parametrize("classifier", ["ncm", "slda"])
@pytest.mark.parametrize("freeze", ["after_first_task", "from_start"])
def test_closed_forms_need_no_updates_and_no_order(freeze: str, classifier: str) -> None:
    """Under a trunk that was frozen before, all rows at once give the head that the stream gave."""
    learning = running(options={"classifier": classifier, "freeze": freeze})
    rows = finish(learning)
    assert [row.cost.updates > 0 for row in rows[1:]] == [freeze == "after_first_task", False, False]
    strategy, z, y = method(learning), [], []
    for task in reversed(range(learning.num_tasks)):
        batch = training_rows(learning, task)
        z.append(strategy._of(batch.x).double())
        y.append(batch.y)
    features, units = torch.cat(z), torch.cat(y)
    means = torch.stack([features[units == unit].mean(0) for unit in range(6)])
    head = strategy.network.head
    if classifier == "ncm":
        torch.testing.assert_close(head.weight.double(), means, rtol=1e-6, atol=1e-6)
    else:
        centred = features - means[units]
        covariance = centred.T @ centred / len(features)
        precision = torch.linalg.inv((1 - 1e-4) * covariance + 1e-4 * torch.eye(len(covariance)))
        torch.testing.assert_close(head.weight.double(), means @ precision, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("classifier", ["ncm", "slda"])
def test_closed_forms_resume_to_the_bit(classifier: str, scenario: str) -> None:
    options = {"classifier": classifier}
    whole, stopped = (running(scenario, options=options, training={"reset_optimizer": False}) for _ in range(2))
    rows = finish(whole)
    begun = stopped.run_task()
    resumed = trainer(stopped.trial)
    resumed.load_state_dict(stopped.state_dict())
    assert counts(begun + finish(resumed)) == counts(rows)
    ours, theirs = (each.strategy.state_dict() for each in (resumed, whole))
    for part in ours:
        assert all(torch.equal(value, theirs[part][name]) for name, value in ours[part].items())


def test_closed_forms_keep_what_naive_forgets() -> None:
    training = {"epochs": 6}
    accuracy = {
        classifier: matrix(trial("feature_extraction", options={"classifier": classifier}, training=training))
        for classifier in ("ncm", "slda")
    }
    naive = matrix(trial("naive", training=training)).average_accuracy()
    for result in accuracy.values():
        assert result.average_accuracy() > naive + 0.3
