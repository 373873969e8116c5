"""Generative negative replay: row 27 of CONTRIBUTING's table on whole updates, its generator, and wrong variants."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from support import finish, matrix, trainer, trial
from torch import Tensor

from raycl.errors import MethodError
from raycl.learning.consolidated_head import ConsolidatedHead
from raycl.strategies.base import Losses, Position, Source
from raycl.strategies.consolidated import generative_negative_replay
from raycl.strategies.consolidated.generative_negative_replay import GenerativeNegativeReplay
from raycl.streams.task import Batch
from raycl.trial.rows import CurrentData, Work
from raycl.trial.trainer import Trainer

MODEL = {"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "batch"}
AT = Position(1, "train", 0, 0, 0.0, False)


def made(scenario: str = "class", **blocks: Any) -> Trainer:
    model = blocks.pop("model", MODEL)
    return trainer(trial("generative_negative_replay", scenario, model=model, **blocks))


def begun(**blocks: Any) -> Trainer:
    """A trial that has learned its first task and begun its second."""
    learning = made(**blocks)
    learning.run_task()
    strategy = learning.strategy
    strategy.grow(1)
    learning._optimizers.build(strategy.trainable(1))
    strategy.train(True)
    strategy.begin_task(1, data(learning, 1))
    return learning


def data(learning: Trainer, task: int) -> Any:
    return CurrentData(learning._rows.pool(Source.CURRENT, task)[0], torch.Generator(), Work())


def batch_of(learning: Trainer) -> Batch:
    """New and generated rows of an update."""
    phase = learning.strategy.phases(1)[0]
    assert phase.name == "train"
    rows = phase.source
    index = torch.arange(16)
    new = Batch(torch.empty(16, 0), rows.x[index], rows.y[index], rows.task[index], rows.replayed[index])
    return learning.strategy.draw(new, AT)


def gradients(learning: Trainer, batch: Batch) -> tuple[Tensor, list[Tensor | None]]:
    """Of the head's rows and of what lies between cut and head."""
    strategy = learning.strategy
    for parameter in strategy.network.parameters():
        parameter.grad = None
    sum(strategy.loss(batch).values()).backward()
    return strategy.network.head.weight.grad.clone(), [p.grad for p in strategy.upper.parameters()]


# -- what generated rows teach: row 27 of CONTRIBUTING's table -----------------------------------------------------


def check_gradients(learning: Trainer) -> None:
    strategy, batch = learning.strategy, batch_of(learning)
    generated = batch[batch.replayed]
    assert len(generated) == 16
    assert set(generated.y.tolist()) <= {0, 1}
    head, above = gradients(learning, generated)
    assert not head[:2].any(), "old rows learn from generated ones"
    assert all(gradient is None or not gradient.any() for gradient in above)
    with torch.no_grad():
        features = strategy.upper(generated.x)
        probabilities = strategy.network.head(features).softmax(1)
    share = 2 / 4  # of old classes
    torch.testing.assert_close(head[2:], share * probabilities[:, 2:].T @ features / len(generated))
    swapped = Batch(generated.image, generated.x, 1 - generated.y, generated.task, generated.replayed)
    assert torch.equal(gradients(learning, swapped)[0], head), "which old class does not matter"


@pytest.mark.parametrize("rivals", ["fixed", "learning"])
def test_generated_rows_teach_new_classes_alone(rivals: str) -> None:
    check_gradients(begun(options={"rivals": rivals}))


def test_positive_replay_is_told_apart() -> None:
    with pytest.raises(AssertionError, match="old rows learn"):
        check_gradients(begun(options={"mode": "positive"}))


def test_above_the_cut_only_new_rows_teach() -> None:
    learning = begun(options={"layer": "3"}, model={**MODEL, "norm": "none"})
    check_gradients(learning)
    batch = batch_of(learning)
    _, both = gradients(learning, batch)
    assert all(gradient is not None and gradient.any() for gradient in both)


class NegatesTheNewClasses(GenerativeNegativeReplay):
    """A mutant: generated rows are labelled as if they were new ones."""

    def loss(self, batch: Batch) -> Losses:
        y = torch.where(batch.replayed, batch.y + 2, batch.y)
        return super().loss(Batch(batch.image, batch.x, y, batch.task, batch.replayed))


def test_generated_rows_of_the_wrong_classes_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generative_negative_replay, "GenerativeNegativeReplay", NegatesTheNewClasses)
    with pytest.raises(AssertionError):
        check_gradients(begun())


# -- the head --------------------------------------------------------------------------------------------------------


def check_old_rows(learning: Trainer) -> None:
    learning.run_task()
    while not learning.done:
        before = learning.strategy.network.head.weight.detach().clone()
        learning.run_task()
        assert torch.equal(learning.strategy.network.head.weight.detach()[: len(before)], before), "old rows"


@pytest.mark.parametrize("rivals", ["fixed", "learning"])
def test_old_rows_stay(rivals: str) -> None:
    check_old_rows(made(options={"rivals": rivals}, training={"optimizer": "adamw", "weight_decay": 0.1}))


def check_rivals(learning: Trainer) -> None:
    """Before they are consolidated, old rows stand where new ones met them all along."""
    strategy, ended = learning.strategy, []
    consolidate = strategy.head.consolidate

    def watched() -> None:
        ended.append(strategy.network.head.weight.detach().clone())
        consolidate()

    strategy.head.consolidate = watched
    learning.run_task()
    while not learning.done:
        before = strategy.network.head.weight.detach().clone()
        learning.run_task()
        assert torch.equal(ended[-1][: len(before)], before), "rivals"
        assert not torch.equal(ended[-1][len(before) :], torch.zeros_like(ended[-1][len(before) :]))


DECAY = {"optimizer": "adam", "weight_decay": 0.1, "reset_optimizer": False}


def test_fixed_rivals_stand_still_while_new_rows_learn() -> None:
    check_rivals(made(training=DECAY))


class LeavesRivalsToTheOptimizer(GenerativeNegativeReplay):
    """A mutant: old rows have no gradient, but decay and moments."""

    def learning_units(self, task: int) -> None:
        return None

    def after_update(self, batch: Batch, at: Position) -> None:
        pass


def test_rivals_that_decay_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generative_negative_replay, "GenerativeNegativeReplay", LeavesRivalsToTheOptimizer)
    with pytest.raises(AssertionError, match="rivals"):
        check_rivals(made(training=DECAY))


def test_a_rate_of_zero_freezes_statistics_above_the_cut_too() -> None:
    learning = made(options={"layer": "3", "upper_learning_rate": 0.0})
    learning.run_task()
    before = {name: value.clone() for name, value in learning.strategy.upper.state_dict().items()}
    learning.run_task()
    after = learning.strategy.upper.state_dict()
    assert any(name.endswith("running_mean") for name in before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_old_rows_that_are_learned_are_told_apart() -> None:
    with pytest.raises(AssertionError, match="old rows"):
        check_old_rows(made(options={"mode": "positive"}))


def test_positive_replay_counts_generated_rows_of_old_classes() -> None:
    learning = made(options={"mode": "positive", "replay_batch_size": 8})
    learning.run_task()
    past = learning.strategy.head.past.tolist()
    rows = len(learning._source.part(1, "train"))
    learning.run_task()
    assert learning.strategy.head.past[:2].tolist() == [count + round(8 * rows / 16 / 2) for count in past]


# -- the generator ---------------------------------------------------------------------------------------------------


def test_the_generator_learns_after_the_classifier_and_is_kept_while_it_does() -> None:
    """Generated rows of an update come from the generator of the tasks before, in both phases."""
    learning = made(training={"epochs": 1})
    learning.run_task()
    strategy = learning.strategy
    before = {name: value.clone() for name, value in strategy.generator.state_dict().items()}
    network: list[Tensor] = []
    learn, generate, begin = strategy.step, strategy._generator_step, strategy._begin_generator

    def learned(batch: Batch, at: Position) -> Losses:
        losses = learn(batch, at)
        now = strategy.generator.state_dict()
        assert all(
            torch.equal(now[name][: len(value)] if value.dim() else now[name], value) for name, value in before.items()
        ), "the generator moved"
        return losses

    def started() -> None:
        network.append(strategy.network.head.weight.detach().clone())
        begin()

    def generated(batch: Batch, at: Position) -> Losses:
        losses = generate(batch, at)
        assert torch.equal(strategy.network.head.weight, network[0]), "the classifier moved"
        kept = strategy._before.state_dict()
        assert all(torch.equal(kept[name][:2], before[name][:2]) for name in ("decoder.classes", "mean"))
        assert torch.equal(kept["decoder.first.weight"], before["decoder.first.weight"])
        return losses

    strategy.step, strategy._generator_step, strategy._begin_generator = learned, generated, started
    learning.run_task()
    assert strategy._before is None
    assert not torch.equal(strategy.generator.decoder.first.weight, before["decoder.first.weight"])


def real_and_drawn(learning: Trainer) -> tuple[Tensor, Tensor]:
    """Mean activations of every class, real and generated."""
    strategy, real, found = learning.strategy, [], []
    for task in range(learning.num_tasks):
        pool = learning._rows.pool(Source.CURRENT, task)[0]
        batch = pool.gather(torch.arange(len(pool)), augment=False)
        latents = strategy.lower.of(batch.x).flatten(1)
        for unit in batch.y.unique():
            real.append(latents[batch.y == unit].mean(0))
            noise = torch.randn(200, strategy.config.latent_dim, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                found.append(strategy.generator.sample(unit.expand(200), noise).flatten(1).mean(0))
    return torch.stack(real), torch.stack(found)


def check_drawn(learning: Trainer) -> None:
    """At the end each class's generated rows lie nearer to its own real ones than to those of any other."""
    finish(learning)
    real, found = real_and_drawn(learning)
    assert torch.cdist(found, real).argmin(1).tolist() == list(range(6))


@pytest.mark.parametrize("augment", ["none", "flip"])
@pytest.mark.parametrize("layer", [None, "3"])
def test_classes_of_all_tasks_can_be_drawn(layer: str | None, augment: str) -> None:
    check_drawn(made(options={"layer": layer}, stream={"augment": augment}))


class LearnsInTheWrongOrder(GenerativeNegativeReplay):
    """A mutant: the generator takes down a class by the activations that its rows have at the next task."""

    def _begin_generator(self) -> None:
        super()._begin_generator()
        self.generator.mean[:] = self.generator.mean.roll(1, 0)


def test_a_generator_that_mixes_classes_up_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generative_negative_replay, "GenerativeNegativeReplay", LearnsInTheWrongOrder)
    with pytest.raises(AssertionError):
        check_drawn(made())


# -- what it is worth ------------------------------------------------------------------------------------------------

WORTH: dict[str, Any] = {
    "model": {**MODEL, "channels": [8, 16], "hidden": 64},
    "stream": {"tasks": 5},
    "training": {"epochs": 6},
}


def worth(**options: Any) -> float:
    options = {"head_learning_rate": 10.0, **options}
    return matrix(trial("generative_negative_replay", options=options, **WORTH)).average_accuracy()


@cache
def kept() -> float:
    """Average accuracy with negatives."""
    return worth()


@pytest.mark.slow
def test_negatives_are_worth_more_than_no_replays() -> None:
    negative = kept()
    assert negative > worth(replay_batch_size=0) + 0.2
    spec = trial("cwr", options={"head_learning_rate": 10.0}, **WORTH)
    assert negative > matrix(spec).average_accuracy() + 0.05


@pytest.mark.slow
def test_negatives_that_weigh_too_little_are_worth_less() -> None:
    assert worth(replay_share=0.1) < kept() - 0.05


def test_a_shift_undoes_what_negatives_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the mean of new rows, pushed down by negatives, is taken away as if they had been learned alone."""
    negative = kept()
    begin = ConsolidatedHead.begin

    def alone(self: ConsolidatedHead, counts: Any, keep_others: bool = False) -> None:
        begin(self, counts, keep_others)
        self._beside_others = False

    monkeypatch.setattr(ConsolidatedHead, "begin", alone)
    assert worth() < negative - 0.2


# -- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["task", "domain"])
def test_it_is_refused_where_no_other_class_competes(scenario: str) -> None:
    with pytest.raises(MethodError, match="use scenario class"):
        made(scenario)


def test_the_generator_has_a_rate_of_its_own_and_is_charged() -> None:
    learning = made(options={"generator_learning_rate": 0.01})
    learning.run_task()
    assert learning.strategy.trainable(0)["generator"].training.learning_rate == 0.01
    kept = sum(value.numel() for value in learning.strategy.generator.state_dict().values())
    network = sum(value.numel() * value.element_size() for value in learning.strategy.network.state_dict().values())
    assert learning.strategy.state_bytes() == network + 4 * kept + 8 * 2
