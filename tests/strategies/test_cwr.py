"""CWR as a whole: what each task adds to the head, a trunk that stays to the last bit, and wrong variants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pretraining import MODEL, made, weights_file
from support import NORMED, TINY, counts, finish, local_source, matrix, trainer, trial
from torch import Tensor

from raycl.strategies.base import Rows, Strategy, TaskData, Trainable
from raycl.strategies.consolidated.cwr import CWR
from raycl.strategies.lower_part import LowerPart
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

DECAY = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-2}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": DECAY,
    "adamw": {"optimizer": "adamw", "weight_decay": 1e-1},
    "kept": {"optimizer": "adam", "weight_decay": 1e-2, "reset_optimizer": False},
}


def running(scenario: str = "class", **blocks: Any) -> Trainer:
    return trainer(trial("cwr", scenario, **blocks))


def weight(learning: Trainer) -> Tensor:
    return learning.strategy.network.head.weight.detach().clone()


# -- the head: row 25 of CONTRIBUTING's table ------------------------------------------------------------------------


def check_rows(learning: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end each row is that of its own task less a common mean, as if no other task had been learned."""
    head, expected = learning.strategy.head, []
    consolidate = head.consolidate

    def watched() -> None:
        task = learning.next_task
        own = weight(learning)[2 * task : 2 * task + 2]
        expected.append(own - own.mean())
        consolidate()
        assert not learning.strategy.network.head.bias.any()

    monkeypatch.setattr(head, "consolidate", watched)
    finish(learning)
    assert torch.equal(weight(learning), torch.cat(expected))


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("variant", ["cwr_plus", "cwr_star"])
def test_rows_are_those_of_their_own_task(variant: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_rows(running(options={"variant": variant}, training=OPTIMIZERS[optimizer]), monkeypatch)


class LearnsOn(CWR):
    """A mutant: one head throughout, which is answered with as it is."""

    def begin_task(self, task: int, data: TaskData) -> None:
        super().begin_task(task, data)
        with torch.no_grad():
            assert self.head._kept is not None
            self.network.head.weight.copy_(self.head._kept)

    def end_task(self, task: int, data: TaskData) -> None:
        before = self.network.head.weight.detach().clone()
        super().end_task(task, data)
        with torch.no_grad():
            self.network.head.weight.copy_(before)


class LearnsABias(CWR):
    """A mutant: the bias is learned, and nobody consolidates it."""

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        self.network.head.bias.requires_grad_(True)
        return Strategy.trainable(self, task)


@pytest.mark.parametrize("mutant", [LearnsOn, LearnsABias])
def test_a_single_head_and_a_bias_are_caught(mutant: type[CWR], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.consolidated.cwr.CWR", mutant)
    with pytest.raises(AssertionError):
        check_rows(running(training=DECAY), monkeypatch)


def test_classes_that_come_back_are_averaged() -> None:
    """Domain-incremental: after two tasks with as many rows each, half of what the first one knew is left."""
    learning = running("domain", stream={"train_per_task": 100})
    learning.run_task()
    first, head = weight(learning), learning.strategy.head
    expected: list[Tensor] = []
    consolidate = head.consolidate

    def watched() -> None:
        own = weight(learning)
        share = (first_counts / torch.tensor([second[0], second[1]])).sqrt()[:, None]
        expected.append((share * first + own - own.mean()) / (share + 1))
        consolidate()

    first_counts = head.past.clone()
    second = trainer_counts(learning, 1)
    head.consolidate = watched
    learning.run_task()
    torch.testing.assert_close(weight(learning), expected[0])
    assert sum(second.values()) == 100
    assert head.past.tolist() == [int(first_counts[unit]) + second[unit] for unit in (0, 1)]


def trainer_counts(learning: Trainer, task: int) -> dict[int, int]:
    labels = learning._source.part(task, "train").labels
    return {unit: int((labels == unit).sum()) for unit in (0, 1)}


# -- the trunk -------------------------------------------------------------------------------------------------------


def trunk(learning: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learning.strategy.network.backbone.state_dict().items()}


def check_frozen_trunk(learning: Trainer) -> None:
    """After the first task, or from the start, no bit of the trunk moves, running statistics included."""
    drawn = trunk(learning)
    learning.run_task()
    settled = trunk(learning)
    same = all(torch.equal(value, drawn[name]) for name, value in settled.items())
    assert same == (learning.strategy.config.freeze == "from_start")
    while not learning.done:
        learning.run_task()
        moved = [name for name, value in trunk(learning).items() if not torch.equal(value, settled[name])]
        assert not moved, "the trunk moved"
    assert all(p.grad is None for p in learning.strategy.network.backbone.parameters())


@pytest.mark.parametrize("augment", ["none", "flip"], ids=["kept", "augmented"])
@pytest.mark.parametrize("model", list(NORMED))
def test_the_trunk_stays_to_the_last_bit(model: str, augment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TINY, "model", {})
    stream = {"augment": augment, "pad": 4 if model == "resnet32" else 0, "train_per_task": 60}
    check_frozen_trunk(running(model=NORMED[model], stream=stream, training=DECAY))


def test_a_pretrained_trunk_is_frozen_from_the_start(tmp_path: Path) -> None:
    model = {**MODEL, "weights": weights_file(tmp_path)}
    spec = trial("cwr", model=model, options={"freeze": "from_start"}, training=DECAY)
    learning = Trainer(spec, local_source(spec.stream, spec.seed), data_root=tmp_path)
    check_frozen_trunk(learning)
    assert all(torch.equal(value, made().tensors[name]) for name, value in trunk(learning).items())


class MovesStatistics(CWR):
    """A mutant: batch norm goes on learning."""

    def train(self, mode: bool) -> None:
        self.network.train(mode)


class StaysInTheOptimizer(CWR):
    """A mutant: relies on gradients of zero to keep the trunk."""

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        self.network.backbone.requires_grad_(True)
        return Strategy.trainable(self, task)

    def edit_gradients(self, batch: Any, at: Any) -> None:
        for parameter in self.network.backbone.parameters() if at.task else ():
            parameter.grad = torch.zeros_like(parameter)


@pytest.mark.parametrize("mutant", [MovesStatistics, StaysInTheOptimizer])
def test_a_trunk_that_moves_is_caught(mutant: type[CWR], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.consolidated.cwr.CWR", mutant)
    with pytest.raises(AssertionError, match="the trunk moved"):
        check_frozen_trunk(running(model={"norm": "batch"}, stream={"augment": "flip"}, training=DECAY))


class Uncached(CWR):
    """The same method, which puts every batch through the trunk."""

    def begin_task(self, task: int, data: TaskData) -> None:
        super().begin_task(task, data)
        self._latents = None


def test_kept_activations_teach_what_the_trunk_would(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = running(model={"norm": "batch"})
    rows = finish(kept)
    monkeypatch.setattr("raycl.strategies.consolidated.cwr.CWR", Uncached)
    anew = running(model={"norm": "batch"})
    assert counts(finish(anew)) == counts(rows)
    torch.testing.assert_close(weight(kept), weight(anew), rtol=1e-5, atol=1e-6)


def test_activations_are_those_of_evaluation_mode_in_stream_order() -> None:
    learning = running(model={"norm": "batch"})
    learning.run_task()
    learning.strategy.grow(1)
    learning.strategy.train(True)
    data = learning._source.part(1, "train")
    part = learning.strategy.lower
    assert isinstance(part, LowerPart)
    x = learning.strategy.context.normalize(torch.from_numpy(data.images[data.rows]))
    with torch.no_grad():
        expected = learning.strategy.network.backbone(x)

    class Data:
        def batches(self, batch_size: int) -> Any:
            y = torch.from_numpy(data.labels)
            for index in torch.arange(len(y)).split(batch_size):
                yield Batch(x[index], x[index], y[index], y[index], torch.zeros(len(index), dtype=torch.bool))

    found: Rows = part.activations(Data(), 7)  # type: ignore[arg-type]
    torch.testing.assert_close(found.x, expected)
    assert torch.equal(found.y, torch.from_numpy(data.labels))


# -- what it is worth ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["cwr", "cwr_plus", "cwr_star"])
def test_it_keeps_what_naive_forgets(variant: str) -> None:
    """Over 300 random features; without the shift of the mean some of it is lost again."""
    training, model = {"epochs": 6}, {"hidden": [300]}
    naive = matrix(trial("naive", training=training, model=model)).average_accuracy()
    spec = trial("cwr", training=training, model=model, options={"variant": variant, "freeze": "from_start"})
    assert matrix(spec).average_accuracy() > naive + (0.15 if variant == "cwr" else 0.3)


def test_it_keeps_more_of_classes_that_come_back_than_their_latest_rows() -> None:
    star, plus = (
        matrix(trial("cwr", "domain", training={"epochs": 6}, stream={"tasks": 5}, options={"variant": variant}))
        for variant in ("cwr_star", "cwr_plus")
    )
    assert star.average_accuracy() > plus.average_accuracy()


def test_the_first_task_trains_everything() -> None:
    learning = running()
    before = trunk(learning)
    learning.run_task()
    assert all(not torch.equal(value, before[name]) for name, value in trunk(learning).items())
