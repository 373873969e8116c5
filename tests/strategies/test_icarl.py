"""iCaRL: which exemplars stay, what old units learn, which mean answers; rows 23 and 24 of CONTRIBUTING's table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from strategies.icarl_trials import BATCH_NORM, CAPACITY, made, method, mutated
from support import TINY, counts, finish, matrix, trial
from torch import Tensor, nn

from raycl.errors import SpecError
from raycl.learning.distillation import frozen_copy
from raycl.learning.herding import herding, unit_length
from raycl.memory.buffer import everything
from raycl.strategies import icarl
from raycl.strategies.base import Losses, Source, TaskData
from raycl.strategies.icarl import ICaRL
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

AUGMENTED = {"stream": {"augment": "crop"}}


def phi(running: Trainer, x: Tensor) -> Tensor:
    """Features of network inputs in evaluation mode, as they are now; not at unit length."""
    copy = frozen_copy(method(running).network)
    return copy.backbone(x)


def current_rows(running: Trainer, task: int) -> Batch:
    """All training rows of a task, un-augmented."""
    pool = running._rows.pool(Source.CURRENT, task)[0]
    return pool.gather(torch.arange(len(pool)), augment=False)


# -- exemplars -----------------------------------------------------------------------------------------------------


def check_exemplars(**blocks: Any) -> None:
    """Of c classes each has the first 47 // c of its ranking, which herding made of all of its rows when it was new."""
    running = made(**{"stream": {"augment": "flip"}, **BATCH_NORM, **blocks})
    ranked: dict[int, list[Tensor]] = {}

    def compare(running: Trainer) -> None:
        task = running.next_task - 1
        rows = current_rows(running, task)
        unit = unit_length(phi(running, rows.x))
        for label in rows.y.unique().tolist():
            own = (rows.y == label).nonzero().flatten()
            ranked[label] = list(rows.image[own[herding(unit[own], CAPACITY)]])
        held, count = everything(method(running).memory), CAPACITY // len(ranked)
        assert len(held["label"]) == count * len(ranked)
        for label, best in ranked.items():
            kept = held["image"][held["label"] == label]
            assert sorted(map(bits, kept)) == sorted(map(bits, best[:count])), f"class {label} after task {task}"

    finish(running, compare)


def bits(image: Tensor) -> bytes:
    return image.numpy().tobytes()


def test_each_class_keeps_the_beginning_of_its_ranking() -> None:
    check_exemplars()


class RawFeatures(ICaRL):
    """Features are not scaled to unit length."""

    def _features(self, images: Iterable[Tensor]) -> Tensor:
        with icarl.frozen_statistics(self.network), torch.no_grad():
            return torch.cat([self.network.backbone(x) for x in images])


class RanksInTrainingMode(ICaRL):
    """Batch norm takes the statistics of the batch, and moves its own."""

    @torch.no_grad()
    def _features(self, images: Iterable[Tensor]) -> Tensor:
        self.network.train()
        return unit_length(torch.cat([self.network.backbone(x) for x in images]))


class RanksAugmentedRows(ICaRL):
    """Features of augmented images."""

    def _features(self, images: Iterable[Tensor]) -> Tensor:
        return super()._features(self.context.augment(x) for x in images)


class RanksAFewRows(ICaRL):
    """The mean that is followed is not that of all the class's rows."""

    def _chosen(self, data: TaskData, labels: Tensor) -> Tensor:
        labels = labels.clone()
        labels[len(labels) // 2 :] = -1
        return super()._chosen(data, labels)


class KeepsTheMemoryFull(ICaRL):
    """Places that are left over stay with rows beyond the quota."""

    def end_task(self, task: int, data: TaskData) -> None:
        self.memory.trim = lambda: None  # type: ignore[method-assign]
        super().end_task(task, data)


@pytest.mark.parametrize(
    "wrong", [RawFeatures, RanksInTrainingMode, RanksAugmentedRows, RanksAFewRows, KeepsTheMemoryFull]
)
def test_the_check_finds_wrong_exemplars(wrong: type[ICaRL], monkeypatch: pytest.MonkeyPatch) -> None:
    mutated(wrong, monkeypatch)
    with pytest.raises(AssertionError):
        check_exemplars()


def test_random_exemplars_are_others() -> None:
    with pytest.raises(AssertionError):
        check_exemplars(options={"exemplars": "random"})


@pytest.mark.parametrize(("unit", "kept"), [("class", [7] * 6), ("task", [3] * 6), ("total", [1] * 6)])
def test_the_capacity_counts_for_what_the_sweep_says(unit: str, kept: list[int]) -> None:
    running = made(memory={"capacity": 7, "unit": unit})
    rows = finish(running)
    labels = method(running).memory.labels
    assert labels.bincount().tolist() == kept
    assert rows[-1].cost.buffer_bytes == sum(kept) * (64 + 8 + 8)


def test_a_class_that_is_smaller_than_its_quota_is_kept_whole() -> None:
    running = made(stream={"train_per_task": 8}, memory={"capacity": 1000})
    finish(running)
    assert len(method(running).memory) == 3 * 8


# -- which mean answers --------------------------------------------------------------------------------------------


def nearest(running: Trainer, x: Tensor) -> Tensor:
    """Classes by algorithm 1: features and means at unit length, means of the exemplars as they are seen now."""
    strategy = method(running)
    held = everything(strategy.memory)
    unit = unit_length(phi(running, strategy.context.normalize(held["image"])))
    means = torch.stack([unit[held["label"] == label].mean(0) for label in range(int(held["label"].max()) + 1)])
    return torch.cdist(unit_length(phi(running, x)).double(), unit_length(means).double()).argmin(1)


def answered(running: Trainer, x: Tensor) -> Tensor:
    strategy = method(running)
    strategy.train(False)
    with torch.no_grad():
        return strategy.predict(x, None).argmax(1)


def check_answers(**blocks: Any) -> None:
    running = made(**blocks)

    def compare(running: Trainer) -> None:
        x = torch.cat([current_rows(running, task).x for task in range(running.num_tasks)])
        assert (answered(running, x) == nearest(running, x)).float().mean() > 0.999, running.next_task

    finish(running, compare)


@pytest.mark.parametrize("blocks", [{}, {**BATCH_NORM, **AUGMENTED}])
def test_the_nearest_mean_of_exemplars_answers(blocks: dict[str, Any]) -> None:
    check_answers(**blocks)


class MeansOfLongAgo(ICaRL):
    """The means of old classes stay as they were."""

    def _exemplar_means(self) -> Tensor:
        means = super()._exemplar_means()
        return torch.cat([self.means, means[len(self.means) :]])


class MeansOfAllRows(ICaRL):
    """The means are those of all the data that the class had, not of its exemplars."""

    def end_task(self, task: int, data: TaskData) -> None:
        super().end_task(task, data)
        unit, y = self._features(batch.x for batch in data.batches(1000)), data.table()["label"]
        for label in self._new:
            self.means[label] = unit_length(unit[y == label].mean(0, keepdim=True))


@pytest.mark.parametrize("wrong", [MeansOfLongAgo, RawFeatures, MeansOfAllRows])
def test_the_check_finds_wrong_means(wrong: type[ICaRL], monkeypatch: pytest.MonkeyPatch) -> None:
    mutated(wrong, monkeypatch)
    with pytest.raises(AssertionError):
        check_answers()


def check_scale() -> None:
    """Answers stay when all features become longer."""
    running = made()
    finish(running)
    strategy, x = method(running), torch.cat([current_rows(running, task).x for task in range(3)])
    before = answered(running, x)
    last = next(layer for layer in reversed(list(strategy.network.backbone)) if isinstance(layer, nn.Linear))  # type: ignore[call-overload]
    with torch.no_grad():
        last.weight.mul_(32)
        last.bias.mul_(32)
    assert torch.equal(answered(running, x), before)
    strategy.means = strategy._exemplar_means()
    assert torch.equal(answered(running, x), before)


def test_answers_do_not_depend_on_the_length_of_features() -> None:
    check_scale()


def test_the_check_finds_features_that_are_not_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icarl, "unit_length", lambda features: features)
    for check in (check_scale, check_answers):
        with pytest.raises(AssertionError):
            check()


def test_the_network_answers_where_it_is_asked_to() -> None:
    running = made(options={"classifier": "network"})
    finish(running)
    strategy, x = method(running), current_rows(running, 1).x
    assert torch.equal(answered(running, x), frozen_copy(strategy.network)(x).argmax(1))
    assert not len(strategy.means)


# -- the whole -----------------------------------------------------------------------------------------------------


def test_it_keeps_far_more_than_fine_tuning() -> None:
    blocks: dict[str, Any] = {"stream": {"tasks": 5}, "training": {"epochs": 8}}
    kept = matrix(trial("icarl", memory={"capacity": 100}, **blocks)).average_accuracy()
    assert kept > matrix(trial("naive", **blocks)).average_accuracy() + 0.4
    assert kept > 0.8


@pytest.mark.parametrize("model", [{"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "batch"}, {"hidden": []}])
def test_other_networks(model: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if "name" in model:
        monkeypatch.setitem(TINY, "model", {})
    rows = finish(made(model=model, training={"epochs": 4}))
    assert rows[-1].correct.sum() / rows[-1].total.sum() > 0.6


@pytest.mark.parametrize(("mix", "low", "high"), [("size", 0.1, 0.2), ("equal", 0.45, 0.55), ("paired", 0.49, 0.51)])
@pytest.mark.parametrize("augment", ["none", "flip"])
def test_the_memory_is_mixed_as_the_sweep_says(mix: str, low: float, high: float, augment: str) -> None:
    """Whether or not targets are computed ahead of the updates."""
    running = made(memory={"mix": mix, "batch_size": 16}, stream={"augment": augment})
    running.run_task()
    strategy, real, replayed = method(running), method(running).loss, []

    def watched(batch: Batch) -> Losses:
        replayed.append(batch.replayed)
        return real(batch)

    strategy.loss = watched  # type: ignore[method-assign]
    running.run_task()
    full = [rows for rows in replayed if len(rows) >= 16]
    assert low < float(torch.cat(full).float().mean()) < high


def test_every_pass_and_the_previous_network_are_charged() -> None:
    running = made()
    first, second = running.run_task()[-1].cost, running.run_task()[-1].cost
    network = sum(4 * p.numel() for p in method(running).network.parameters())
    assert first.state_bytes == network - 2 * 33 * 4 + 2 * 32 * 4
    assert second.state_bytes == 2 * network + 4 * 32 * 4
    new, old = len(current_rows(running, 1)), 46
    held = 11 * 4
    assert second.examples == 2 * (new + old) + new + old + new + held, "two epochs, targets, ranking, means"


def test_it_goes_on_from_a_checkpoint_between_two_tasks_in_the_same_way() -> None:
    """With augmentation and batch norm, which the contract tests do not use."""
    blocks = {**BATCH_NORM, **AUGMENTED}
    whole, first = made(**blocks), made(**blocks)
    rows = finish(whole)
    begun = first.run_task()
    second = made(**blocks)
    second.load_state_dict(first.state_dict())
    assert counts(begun + finish(second)) == counts(rows)
    assert torch.equal(method(second).means, method(whole).means)


@pytest.mark.parametrize(
    ("blocks", "told"),
    [
        ({"memory": {"selection": "reservoir"}}, "memory.selection"),
        ({"training": {"active_logits": "current"}}, "training.active_logits"),
        ({"scenario": "task", "model": {"head": "single"}}, "model.head"),
        ({"scenario": "domain"}, "model.head"),
    ],
)
def test_what_does_not_fit_is_refused(blocks: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        made(**blocks)


def test_a_memory_that_will_not_hold_every_class_is_refused_before_anything_is_learned() -> None:
    with pytest.raises(SpecError, match=r"memory\.capacity: must be at least the number of classes .*\(got 5\)"):
        made(memory={"capacity": 5})
    made(memory={"capacity": 5, "unit": "task"}).run_task()


# -- units of classes that have not come -----------------------------------------------------------------------------


def check_unseen_units() -> None:
    """As the authors' code has it: every unit is trained, those of later classes towards 0; by hand, unit by unit."""
    running = made(training={"active_logits": "all"})
    strategy, seen = method(running), 0
    loss = strategy.loss

    def watched(batch: Batch) -> Losses:
        nonlocal seen
        losses = loss(batch)
        p = strategy.network(batch.x).sigmoid().double().detach()
        first = 2 * strategy.task
        assert p.shape[1] == 6
        by_hand = sum(
            -(p[row, unit] if unit == batch.y[row] else 1 - p[row, unit]).log()
            for row in range(len(batch))
            for unit in range(first, 6)
        )
        assert losses["task"].item() == pytest.approx(float(by_hand) / len(batch), rel=1e-4)
        seen += 1
        return losses

    strategy.loss = watched  # type: ignore[method-assign]
    finish(running)
    assert seen > 20
    assert strategy.active_logits() == "all"


def test_units_of_later_classes_can_be_trained_as_the_authors_do() -> None:
    check_unseen_units()


def test_the_check_finds_units_that_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the task's own units alone."""
    cross_entropy = icarl._cross_entropy
    monkeypatch.setattr(icarl, "_cross_entropy", lambda logits, targets: cross_entropy(logits[:, :2], targets[:, :2]))
    with pytest.raises(AssertionError):
        check_unseen_units()
