"""Progressive networks: old columns never move nor answer otherwise, laterals are learned, and the mutants of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from support import TINY, counts, evaluation_rows, finish, matrix, trainer, trial
from torch import Tensor

from raycl.errors import MethodError, SpecError
from raycl.models.columns import ColumnStack, Taps
from raycl.strategies.base import Losses, TaskData, Trainable
from raycl.strategies.progressive import Progressive
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

MLP = {"hidden": [32, 24], "norm": "batch"}
CNN = {"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "batch"}
RESNET = {"name": "resnet18", "width": 2}
DECAY = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-2}
KEPT = {"optimizer": "adam", "weight_decay": 1e-2, "reset_optimizer": False}


def running(scenario: str = "task", **blocks: Any) -> Trainer:
    return trainer(trial("progressive", scenario, **{"model": MLP, **blocks}))


def method(trainer: Trainer) -> Progressive:
    assert isinstance(trainer.strategy, Progressive)
    return trainer.strategy


def answers(learning: Trainer, task: int) -> Tensor:
    """Logits of a task's own units for a fixed batch."""
    strategy = method(learning)
    images = torch.rand(20, *strategy.context.image_shape, generator=torch.Generator().manual_seed(0))
    units = strategy.context.scenario.units(task)
    strategy.train(False)
    with torch.no_grad():
        return strategy.predict(images, task)[:, units.start : units.stop].clone()


def check_old_columns(learning: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of old columns, their answers before and after each later task, and their accuracies: to the last bit."""
    states: list[dict[str, Tensor]] = []
    answered: list[Tensor] = []
    monkeypatch.setattr(learning.strategy, "end_task", lambda task, data: answered.append(answers(learning, task)))
    rows = []
    while not learning.done:
        rows += learning.run_task()
        for task, before in enumerate(states):
            state = method(learning).columns[task].state_dict()
            moved = [name for name, value in state.items() if not torch.equal(value, before[name])]
            assert not moved, f"column {task} moved: {moved}"
        for task, logits in enumerate(answered):
            assert torch.equal(answers(learning, task), logits), f"column {task} answers otherwise"
        last = method(learning).columns[-1].state_dict()
        states.append({name: value.clone() for name, value in last.items()})
    for row in rows[1:]:
        assert [row.correct[j] for j in range(row.task + 1)] == [rows[j + 1].correct[j] for j in range(row.task + 1)]


@pytest.mark.parametrize("training", [DECAY, KEPT], ids=["decay", "kept"])
@pytest.mark.parametrize("laterals", ["adapter", "direct"])
def test_old_columns_never_move(laterals: str, training: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    check_old_columns(running(options={"laterals": laterals}, training=training), monkeypatch)


@pytest.mark.parametrize("model", [CNN, RESNET], ids=["cnn", "resnet18"])
def test_old_columns_of_convolutions_never_move(model: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TINY, "model", {})
    stream = {"pad": 4, "train_per_task": 60} if model is RESNET else {}
    check_old_columns(running(model=model, stream=stream, training=DECAY), monkeypatch)


class KeepsOldParameters(Progressive):
    """A mutant: the optimiser holds all columns, whose gradients stay at zero; weight decay moves them."""

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        return {"all": Trainable.of(self.columns.requires_grad_(True).parameters())}

    def loss(self, batch: Batch) -> Losses:
        return {**super().loss(batch), "old": 0 * sum(p.sum() for p in self.columns.parameters())}


class Leaks(ColumnStack):
    """A mutant: the loss reaches old columns through the laterals."""

    def forward(self, x: Tensor, task: int) -> Tensor:
        taps: Taps = {}
        for earlier in range(task):
            taps = self.column(earlier).taps(x, taps)
        return self.column(task)(x, taps)


class TrainsOldColumns(Progressive):
    """A mutant: gradients through the laterals into old columns, which the optimiser holds."""

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        self.columns.__class__ = Leaks
        return {"all": Trainable.of(self.columns.requires_grad_(True).parameters())}


class KeepsTraining(Progressive):
    """A mutant: old columns stay in training mode."""

    def train(self, mode: bool) -> None:
        self.columns.train(mode)


class AnswersWithTheNewest(Progressive):
    """A mutant: an old task is answered by the column of the newest."""

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        assert task is not None
        logits = super().predict(x, self.task)
        return logits.roll(2 * (task - self.task), 1)


@pytest.mark.parametrize(
    ("mutant", "caught"),
    [
        (KeepsOldParameters, "column 0 moved.*network.head.weight"),
        (TrainsOldColumns, "column 0 moved.*network.backbone.1.weight"),
        (KeepsTraining, "column 0 moved.*running_mean"),
        (AnswersWithTheNewest, "column 0 answers otherwise"),
    ],
)
def test_mutants_of_the_update_and_of_the_answer_are_caught(
    mutant: type[Progressive], caught: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raycl.strategies.progressive.Progressive", mutant)
    with pytest.raises(AssertionError, match=caught):
        check_old_columns(running(training=DECAY), monkeypatch)


def check_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor of a new column moves, its laterals among them."""
    learning = running(training={"learning_rate": 1e-2})
    learning.run_task()
    columns, drawn = method(learning).columns, {}

    def begin_task(task: int, data: TaskData) -> None:
        drawn.update({name: value.clone() for name, value in columns[task].state_dict().items()})

    monkeypatch.setattr(learning.strategy, "begin_task", begin_task)
    learning.run_task()
    same = [name for name, value in columns[1].state_dict().items() if torch.equal(value, drawn[name])]
    assert not same, f"at rest: {same}"


class TrainsNetworksOnly(Progressive):
    """A mutant: laterals are missing from the optimiser."""

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        return {"network": Trainable.of(self.network.parameters())}


def test_the_whole_new_column_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    check_learning(monkeypatch)
    monkeypatch.setattr("raycl.strategies.progressive.Progressive", TrainsNetworksOnly)
    with pytest.raises(AssertionError, match=r"at rest: \['laterals"):
        check_learning(monkeypatch)


def test_the_first_task_is_learned_as_naive_learns_it() -> None:
    naive, ours = trainer(trial("naive", "task", model=MLP)), running()
    assert counts(naive.run_task()[1:]) == counts(ours.run_task()[1:])


def test_without_laterals_it_is_an_ensemble() -> None:
    ours, ensemble = running(options={"laterals": "none"}), trainer(trial("ensemble", "task", model=MLP))
    assert counts(finish(ours)) == counts(finish(ensemble))
    for column, network in zip(method(ours).columns, ensemble.strategy.networks, strict=True):
        assert all(
            torch.equal(value, network.state_dict()[name]) for name, value in column.network.state_dict().items()
        )


def test_nothing_is_forgotten_and_each_task_is_learned() -> None:
    result = matrix(trial("progressive", "task", model={"hidden": [32, 24]}, training={"epochs": 6}))
    assert result.backward_transfer() == 0
    assert result.average_accuracy() > 0.93


def test_laterals_alone_can_answer_from_features_that_others_learned() -> None:
    """The second column keeps its network as it was drawn, and sees ten rows of the first one's task."""
    learning = running(model={"hidden": [32, 24]}, training={"epochs": 20})
    learning.run_task()
    strategy = method(learning)
    strategy.grow(1)
    column = strategy.columns[1]
    for name, parameter in column.named_parameters():
        parameter.requires_grad_(name.startswith("laterals"))
    rows = evaluation_rows(learning, 0)
    optimizer = torch.optim.Adam([p for p in column.parameters() if p.requires_grad], 1e-2)
    for _ in range(100):
        loss = torch.nn.functional.cross_entropy(strategy.columns(rows.x[:10], 1), rows.y[:10])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((strategy.columns(rows.x, 1).argmax(1) == rows.y).float().mean()) > 0.95


# -- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("laterals", ["adapter", "direct", "none"])
@pytest.mark.parametrize(
    "model", [{"hidden": [120, 80]}, {**CNN, "channels": [8, 16], "hidden": 64}], ids=["mlp", "cnn"]
)
def test_matched_columns_have_the_parameters_of_one_network(
    model: dict[str, Any], laterals: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TINY, "model", TINY["model"] if "name" not in model else {})
    training = {"iterations": 1}
    whole = finish(trainer(trial("naive", "task", model=model, training=training)))[-1].cost.parameters
    options = {"match_parameters": True, "laterals": laterals}
    rows = finish(running(model=model, options=options, training=training))
    assert 0.8 * whole < rows[-1].cost.parameters <= whole


def test_a_model_too_narrow_to_share_is_refused() -> None:
    with pytest.raises(SpecError, match="match_parameters: 3 columns cannot be as small"):
        running(model={"hidden": [2]}, options={"match_parameters": True})


def test_columns_and_laterals_are_counted_and_charged() -> None:
    rows = [row for row in finish(running(model={"hidden": [32, 24]})) if row.task >= 0]
    network = 64 * 32 + 32 + 32 * 24 + 24 + 25 * 2
    sizes = [network, *(network + sum(k + 8 * k * i + 8 + 8 * o for i, o in ((32, 24), (24, 2))) for k in (1, 2))]
    assert [row.cost.parameters for row in rows] == [sum(sizes[:k]) for k in (1, 2, 3)]
    assert [row.cost.state_bytes for row in rows] == [4 * sum(sizes[:k]) for k in (1, 2, 3)]


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(SpecError, match=r"training\.active_logits: .*own task's head"):
        running(training={"active_logits": "seen"})
    with pytest.raises(MethodError, match="needs the task id"):
        running().strategy.predict(torch.zeros(1, 1, 8, 8), None)
