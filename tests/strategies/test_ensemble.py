"""Ensemble: a network that has learned its task never moves again, and rows choose their network one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from support import TINY, counts, finish, matrix, trainer, trial
from torch import Tensor

from raycl.errors import MethodError, SpecError
from raycl.learning.task_inference import log_entropy, log_odds_against_first, most_certain
from raycl.strategies.base import Losses, Trainable
from raycl.strategies.ensemble import Ensemble
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

DECAY = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-2}
KEPT = {"optimizer": "adam", "weight_decay": 1e-2, "reset_optimizer": False}
NORM = {"norm": "batch"}
SMALL_CNN = {"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "batch"}


def running(scenario: str = "task", **blocks: Any) -> Trainer:
    return trainer(trial("ensemble", scenario, **blocks))


def method(trainer: Trainer) -> Ensemble:
    assert isinstance(trainer.strategy, Ensemble)
    return trainer.strategy


def check_old_networks(learning: Trainer) -> None:
    """States of old networks and rows of the matrix, to the last bit; the diagonal is never lost."""
    learned: list[dict[str, Tensor]] = []
    rows = []
    while not learning.done:
        rows += learning.run_task()
        for task, (before, network) in enumerate(zip(learned, method(learning).networks, strict=False)):
            moved = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
            assert not moved, f"network {task} moved: {moved}"
            assert not network.training or network is learning.strategy.network
        learned.append({name: value.clone() for name, value in learning.strategy.network.state_dict().items()})
    for row in rows[1:]:
        for task in range(row.task + 1):
            assert row.correct[task] == rows[task + 1].correct[task]
    assert not torch.equal(learned[0]["backbone.1.weight"], learned[1]["backbone.1.weight"])


@pytest.mark.parametrize("training", [DECAY, KEPT], ids=["decay", "kept"])
@pytest.mark.parametrize("start", ["fresh", "previous"])
def test_old_networks_never_move(start: str, training: dict[str, Any]) -> None:
    check_old_networks(running(options={"start": start}, model=NORM, training=training))


def test_backward_transfer_is_zero() -> None:
    result = matrix(trial("ensemble", "task", training={"epochs": 6}))
    assert result.backward_transfer() == 0
    assert result.average_accuracy() > 0.93


class KeepsOldParameters(Ensemble):
    """A mutant: the optimiser holds all networks, whose gradients stay at zero."""

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        return {"network": Trainable.of([p for network in self.networks for p in network.parameters()])}

    def loss(self, batch: Batch) -> Losses:
        for network in self.networks:
            network.requires_grad_(True)
        losses = super().loss(batch)
        return {**losses, "old": 0 * sum(network.head.weight.sum() for network in self.networks)}


class KeepsTraining(Ensemble):
    """A mutant: old networks see the task's rows in training mode."""

    def loss(self, batch: Batch) -> Losses:
        for network in self.networks[:-1]:
            network.train()(batch.x)
        return super().loss(batch)


@pytest.mark.parametrize(
    ("mutant", "moved"), [(KeepsOldParameters, "head.weight"), (KeepsTraining, "running_mean")], ids=["decay", "norm"]
)
def test_old_networks_in_the_optimiser_or_in_training_mode_are_caught(
    mutant: type[Ensemble], moved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raycl.strategies.ensemble.Ensemble", mutant)
    with pytest.raises(AssertionError, match=f"network 0 moved.*{moved}"):
        check_old_networks(running(model=NORM, training=DECAY))


def test_the_first_task_is_learned_as_naive_learns_it() -> None:
    naive = trainer(trial("naive", "task"))
    ensemble = running()
    assert counts(naive.run_task()[1:]) == counts(ensemble.run_task()[1:])
    ours, theirs = (learning.strategy.network.state_dict() for learning in (ensemble, naive))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("scenario", ["task", "domain"])
@pytest.mark.parametrize("start", ["fresh", "previous"])
def test_where_a_network_starts(start: str, scenario: str) -> None:
    """The head follows the trunk where the question stays the same."""
    learning = running(scenario, options={"start": start})
    learning.run_task()
    strategy = method(learning)
    strategy.grow(1)
    strategy.begin_task(1, None)  # type: ignore[arg-type]
    first, second = (network.state_dict() for network in strategy.networks)
    copied = {name for name, value in first.items() if torch.equal(value, second[name])}
    trunk, head = {"backbone.1.weight", "backbone.1.bias"}, {"head.weight", "head.bias"}
    assert copied == (set() if start == "fresh" else trunk if scenario == "task" else trunk | head)


# -- the hidden task id ----------------------------------------------------------------------------------------------


class Table(torch.nn.Module):
    """A network that knows the answers: rows ``x`` are indices into its logits ``[rows, units]``."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[x.long()]


INF = float("inf")
FIRST = [[3.0, 0.0], [9.0, 0.0], [300.0, 0.0], [1.0, 1.2]]
SECOND = [[0.0, 2.0], [8.0, 4.0], [0.0, 500.0], [0.0, 0.1]]


NONE = [-INF, -INF]
CERTAIN = [FIRST[0] + NONE, FIRST[1] + NONE, NONE + SECOND[2], FIRST[3] + NONE]
SIDE_BY_SIDE = [first + second for first, second in zip(FIRST, SECOND, strict=True)]


@pytest.mark.parametrize(
    ("selector", "expected"), [("entropy", CERTAIN), ("max_softmax", CERTAIN), ("average", SIDE_BY_SIDE)]
)
def test_each_row_goes_to_the_network_that_is_most_certain(selector: str, expected: list[list[float]]) -> None:
    """Row 2: both softmaxes are 1 in float32, and still the larger margin wins."""
    strategy = method(running("class", options={"selector": selector}))
    strategy.grow(0)
    strategy.grow(1)
    strategy.networks = [Table(FIRST), Table(SECOND)]  # type: ignore[list-item]
    assert torch.equal(strategy.predict(torch.arange(4.0), None), torch.tensor(expected))
    given = strategy.predict(torch.arange(4.0), 1)
    assert torch.equal(given, torch.tensor([NONE + row for row in SECOND]))


def test_entropy_and_largest_probability_may_disagree() -> None:
    """Over three units .6 .4 0 has less entropy than .62 .19 .19, and a smaller maximum."""
    sizes = {"tasks": 2, "classes_per_task": 3}
    certain = torch.tensor([[0.6, 0.4, 1e-9]]).log().tolist()
    peaked = torch.tensor([[0.62, 0.19, 0.19]]).log().tolist()
    chosen = {}
    for selector in ("entropy", "max_softmax"):
        strategy = method(running("class", stream=sizes, options={"selector": selector}))
        strategy.grow(0)
        strategy.grow(1)
        strategy.networks = [Table(certain), Table(peaked)]  # type: ignore[list-item]
        chosen[selector] = int(strategy.predict(torch.zeros(1), None).argmax()) // 3
    assert chosen == {"entropy": 0, "max_softmax": 1}


WIDE = torch.tensor([[0.9, 0.025, 0.025, 0.025, 0.025]]).log().tolist()
NARROW = torch.tensor([[0.93, 0.07]]).log().tolist()
"""The entropies of .464 and .254 nats are shares of .288 and .366; the odds against .111 and .0753 shares of .0278 and
.0753: as they are the narrow one wins both times."""


def compare_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: uncertainties are not divided by the largest possible ones."""
    for name, raw in (("least_entropy", log_entropy), ("largest_probability", log_odds_against_first)):
        monkeypatch.setattr(f"raycl.strategies.ensemble.{name}", lambda groups, raw=raw: most_certain(groups, raw))


def chosen_of_unequal(selector: str) -> int:
    stream = {"tasks": 2, "first_task": 5, "classes_per_task": 2}
    strategy = method(running("class", stream=stream, options={"selector": selector}))
    strategy.grow(0)
    strategy.grow(1)
    strategy.networks = [Table(WIDE), Table(NARROW)]  # type: ignore[list-item]
    return int(strategy.predict(torch.zeros(1), None).argmax())


@pytest.mark.parametrize("selector", ["entropy", "max_softmax"])
def test_certainty_is_relative_to_the_classes_of_a_head(selector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_of_unequal(selector) == 0
    compare_as_they_are(monkeypatch)
    assert chosen_of_unequal(selector) == 5


@pytest.mark.parametrize("selector", ["entropy", "max_softmax", "average"])
def test_tasks_of_one_class_are_refused_where_the_id_is_hidden(selector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"tasks": 3, "first_task": 1, "classes_per_task": 2}
    for scenario in ("class", "domain"):
        with pytest.raises(MethodError, match=r"ensemble: a network of one class .*got tasks of 1, 2, 2 classes"):
            running(scenario, stream=one, options={"selector": selector})
    assert finish(running("task", stream=one))[-1].correct[0] > 0
    if selector == "average":
        return
    monkeypatch.setattr(Ensemble, "unfit", classmethod(lambda cls, config, scenario: None))
    monkeypatch.setattr(Ensemble, "needs", ())
    compare_as_they_are(monkeypatch)
    rows = finish(running("class", stream=one, options={"selector": selector}))
    accuracy = rows[-1].correct / rows[-1].total
    assert accuracy.tolist() == [1, 0, 0], "the mutant: the network of one class takes every image"


def test_shared_units_are_averaged() -> None:
    strategy = method(running("domain", options={"selector": "average"}))
    strategy.grow(0)
    strategy.grow(1)
    strategy.networks = [Table(FIRST), Table(SECOND)]  # type: ignore[list-item]
    expected = (torch.tensor(FIRST) + torch.tensor(SECOND)) / 2
    assert torch.allclose(strategy.predict(torch.arange(4.0), None), expected)


@pytest.mark.parametrize("selector", ["entropy", "max_softmax", "average"])
def test_the_selectors_beat_naive_where_the_id_is_hidden(selector: str) -> None:
    training = {"epochs": 6}
    ensemble = matrix(trial("ensemble", "class", options={"selector": selector}, training=training))
    naive = matrix(trial("naive", "class", training=training))
    assert ensemble.average_accuracy() > naive.average_accuracy() + 0.1


# -- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [{"hidden": [60, 40]}, SMALL_CNN], ids=["mlp", "cnn"])
def test_matched_networks_have_the_parameters_of_one(model: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if "name" in model:
        monkeypatch.setitem(TINY, "model", {})
    whole = trainer(trial("naive", "task", model=model))
    matched = running(model=model, options={"match_parameters": True})
    limit = [row.cost.parameters for row in finish(whole)][-1]
    rows = finish(matched)
    assert 0.8 * limit < rows[-1].cost.parameters <= limit
    assert rows[1].cost.parameters * 3 == pytest.approx(rows[3].cost.parameters)
    assert running(model=model).strategy.parameter_count() == 0


def test_a_model_too_narrow_to_share_is_refused() -> None:
    with pytest.raises(SpecError, match="match_parameters: 3 networks cannot be as small"):
        running(model={"hidden": [1]}, options={"match_parameters": True})


def test_every_network_is_charged() -> None:
    charged = [row.cost.state_bytes for row in finish(running()) if row.task >= 0]
    one = 4 * (64 * 32 + 32 + 33 * 2)
    assert charged == [one, 2 * one, 3 * one]


def test_a_softmax_over_units_that_no_network_has_is_refused() -> None:
    with pytest.raises(SpecError, match=r"training\.active_logits: .*own task's head"):
        running("class", training={"active_logits": "seen"})
