"""What follows a phase: rates by schedule, and the best pass by rows that are held out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support import TINY, counts, finish, resolved, trainer, trial
from torch import Tensor, nn

from raycl.catalog import catalog
from raycl.errors import SpecError
from raycl.spec.sweep import SweepSpec
from raycl.spec.training import TrainingConfig
from raycl.strategies.base import Epochs, Losses, Phase, Position, Strategy, Trainable
from raycl.streams.task import Batch
from raycl.trial.course import Course
from raycl.trial.optimizers import OptimizerSet
from raycl.trial.trainer import Trainer

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 16, "epochs": 4}


class Seen:
    """The rate of every update of a method, task by task."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rates: dict[tuple[int, str], list[float]] = {}
        plain = Strategy.step

        def step(strategy: Strategy, batch: Batch, at: Position) -> Losses:
            self.rates.setdefault((at.task, at.phase), []).append(strategy.learning_rate)
            return plain(strategy, batch, at)

        monkeypatch.setattr(Strategy, "step", step)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def test_each_task_goes_through_the_schedule_once(seen: Seen) -> None:
    finish(trainer(trial("naive", training={**SGD, "schedule": {"multistep": {"at": [0.25, 0.5]}}, "epochs": 4})))
    assert len(seen.rates) == 3
    for rates in seen.rates.values():
        quarter = len(rates) // 4
        assert rates == pytest.approx([0.1] * quarter + [0.01] * quarter + [0.001] * 2 * quarter)


def test_updates_count_as_passes_do(seen: Seen) -> None:
    training = {**SGD, "schedule": "cosine", "iterations": 10}
    finish(trainer(trial("naive", training=training)))
    expected = [0.05 * (1 + np.cos(np.pi * update / 10)) for update in range(10)]
    assert seen.rates[0, "train"] == pytest.approx(expected)


def test_a_budget_ends_the_schedule(seen: Seen) -> None:
    training = {**SGD, "schedule": "cosine", "epochs": None, "budget": {"gradient_examples": 800}}
    running = trainer(trial("naive", training=training))
    running.run_task()
    rates = seen.rates[0, "train"]
    assert len(rates) == 50
    assert rates == pytest.approx([0.05 * (1 + np.cos(np.pi * update / 50)) for update in range(50)])


def test_warm_up_and_a_methods_own_rate_multiply(seen: Seen) -> None:
    training = {**SGD, "iterations": 8, "warm_up": 0.25}
    finish(trainer(trial("hat", "task", training=training, options={"final_learning_rate": 0.5})))
    own = [0.5 ** (update / 8) for update in range(8)]
    assert seen.rates[0, "train"] == pytest.approx([0.1 * f * g for f, g in zip([0.5, *[1.0] * 7], own, strict=True)])


def test_an_optimizer_with_settings_of_its_own_keeps_its_rate() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    training = resolved(TrainingConfig, {**SGD, "schedule": "cosine"})
    own = training.model_copy(update={"schedule": "constant", "learning_rate": 0.7})
    optimizers = OptimizerSet(training)
    optimizers.build({"a": Trainable.of(weights[:1]), "b": Trainable([{"params": weights[1:]}], own)})
    course = Course(optimizers, Phase("train", Epochs(1)), training, lambda: 0.0, list)
    course.before(Position(0, "train", 0, 5, 0.5, False, updates=10))
    assert [optimizers[name].param_groups[0]["lr"] for name in "ab"] == pytest.approx([0.05, 0.7])


def test_a_plateau_drops_after_passes_that_bring_nothing(seen: Seen) -> None:
    """A rate of nothing brings nothing: the loss of a pass is that of the pass before."""
    schedule = {"plateau": {"factor": 0.5, "patience": 1, "threshold": 0.9}}
    finish(trainer(trial("naive", training={**SGD, "epochs": 6, "learning_rate": 1e-30, "schedule": schedule})))
    rates = seen.rates[0, "train"]
    each = len(rates) // 6
    assert [rate / 1e-30 for rate in rates[::each]] == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25])


# -- rows that are held out --------------------------------------------------------------------------------------------


def course(judged: list[float], weight: Tensor, **training: Any) -> Course:
    """A course whose passes are judged as told."""
    settings = resolved(TrainingConfig, {**SGD, "held_out": 0.1, **training})
    optimizers = OptimizerSet(settings)
    optimizers.build({"network": Trainable.of([nn.Parameter(torch.zeros(1))])})
    left = iter(judged)
    return Course(optimizers, Phase("train", Epochs(1)), settings, lambda: next(left), lambda: [weight])


@pytest.mark.parametrize(
    ("judged", "best"), [([0.1, 0.5, 0.4], 1), ([0.5, 0.5, 0.4], 0), ([0.1, 0.2, 0.3], 2), ([0.3, 0.2, 0.1], 0)]
)
def test_the_best_pass_is_kept_the_first_of_equal_ones(judged: list[float], best: int) -> None:
    weight = torch.zeros(1)
    watched = course(judged, weight, keep_best=True)
    for number in range(3):
        weight.fill_(number)
        watched.passed()
    weight.fill_(-1)
    watched.ended()
    assert weight.item() == best


def test_without_keep_best_nothing_is_restored() -> None:
    weight = torch.zeros(1)
    watched = course([0.5, 0.1], weight, schedule={"plateau": {"watch": "held_out"}})
    watched.passed()
    weight.fill_(7)
    watched.passed()
    watched.ended()
    assert weight.item() == 7


def test_a_task_ends_with_the_weights_of_its_best_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate that destroys what was learned, from the second half on: the first half is kept."""
    training = {**SGD, "epochs": 6, "held_out": 0.2, "keep_best": True}
    running = trainer(trial("naive", training=training, model={"hidden": [16], "norm": "batch"}))
    plain = Strategy.after_update

    def spoil(strategy: Strategy, batch: Batch, at: Position) -> None:
        plain(strategy, batch, at)
        if at.epoch >= 3:
            with torch.no_grad():
                for value in strategy.network.state_dict().values():
                    value.copy_(torch.zeros_like(value))

    monkeypatch.setattr(Strategy, "after_update", spoil)
    rows = running.run_task()
    assert rows[-1].correct[0] / rows[-1].total[0] > 0.9
    assert running.strategy.network.backbone[2].running_var.any()


def test_held_out_rows_are_neither_learned_nor_kept() -> None:
    """What a memory of everything holds, and what the trial counts, are the rows that are left."""
    training = {**TINY["training"], "held_out": 0.25, "keep_best": True, "epochs": 1}
    spec = trial("replay", training=training, memory={"capacity": 10_000})
    running, whole = trainer(spec), trainer(trial("replay", training={"epochs": 1}, memory={"capacity": 10_000}))
    finish(running), finish(whole)
    kept, everything = len(running.remembered()["label"]), len(whole.remembered()["label"])
    assert kept == pytest.approx(0.75 * everything, abs=6)
    assert running.layout == whole.layout


def test_resuming_in_mid_sweep_equals_never_having_stopped_with_everything_on() -> None:
    training = {
        **SGD,
        **{"schedule": {"plateau": {"watch": "held_out", "patience": 0}}, "warm_up": 0.2, "held_out": 0.2},
        **{"keep_best": True, "label_smoothing": 0.1, "momentum": 0.9, "nesterov": True, "reset_optimizer": False},
    }
    spec = trial("replay", training=training, model={"hidden": [32], "dropout": 0.2})
    whole = trainer(spec)
    rows = finish(whole)
    resumed, resumed_rows = trainer(spec), []
    while not resumed.done:
        resumed_rows += resumed.run_task()
        state, resumed = resumed.state_dict(), trainer(spec)
        resumed.load_state_dict(state)
    assert counts(resumed_rows) == counts(rows)


# -- what is refused ---------------------------------------------------------------------------------------------------

SWEEP = """
name: scheduled
stream: {{name: split, dataset: digits, tasks: 5, scenario: {scenario}, boundaries: {boundaries}}}
model: {{name: mlp, hidden: [8]}}
training: {{epochs: 2, {training}}}
strategies: {{{strategies}: {{}}}}
final: {{seeds: [1]}}
"""


def problems(training: str, strategies: str = "naive", boundaries: str = "given", scenario: str = "class") -> str:
    text = SWEEP.format(training=training, strategies=strategies, boundaries=boundaries, scenario=scenario)
    with pytest.raises(SpecError) as caught:
        SweepSpec.parse(text, catalog())
    return str(caught.value)


def test_what_is_wrong_within_a_schedule_is_told_once() -> None:
    """The mapping is no word either, which is not to the point."""
    assert "constant" not in problems("schedule: {multistep: {at: [1.5]}}")


@pytest.mark.parametrize(
    ("training", "others", "told"),
    [
        ("schedule: cosine", {"boundaries": "hidden"}, "nobody tells where one ends"),
        ("warm_up: 0.1", {"boundaries": "hidden"}, "nobody tells where one ends"),
        ("schedule: one_cycle, warm_up: 0.1", {}, "one_cycle rises by itself"),
        ("keep_best: true", {}, "set it, to 0.1 for example"),
        ("schedule: {plateau: {watch: held_out}}", {}, "set it, to 0.1 for example"),
        ("keep_best: true, held_out: 0.1", {"strategies": "si"}, "follows from all of its updates"),
        ("label_smoothing: 0.1", {"strategies": "icarl"}, "otherwise than by a softmax"),
        ("schedule: {step: {every: 0.5}, cosine: {}}", {}, "set one of step, multistep, cosine"),
        ("schedule: {multistep: {at: [0.5, 0.5]}}", {}, "each drop once, in order"),
        ("schedule: {multistep: {at: [1.5]}}", {}, "schedule.multistep.at.0: must be below 1"),
        ("schedule: {multistep: {at: [0.5], factor: [0.1, 0.1]}}", {}, "a list of as many as at has"),
        ("schedule: {step: {}}", {}, "every"),
        ("schedule: linear", {}, "constant"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_remedy(training: str, others: dict[str, str], told: str) -> None:
    assert told in problems(training, **others)


def test_trainers_are_as_fast_without_a_schedule() -> None:
    """Nothing is asked of an update where nothing depends on it."""
    spec = trial("naive", training=SGD)
    running: Trainer = trainer(spec)
    running.run_task()
    assert running._optimizers.steady
    followed = Course(running._optimizers, Phase("train", Epochs(1)), spec.training, lambda: 0.0, list)
    running._optimizers.set_rates(lambda settings: 0.5)
    followed.before(Position(0, "train", 0, 5, 0.5, False))
    assert running.strategy.learning_rate == pytest.approx(0.05)
