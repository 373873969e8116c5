"""What every method with a quadratic pull towards earlier weights stands by, and what none of them can do."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from support import finish, matrix, penalty_of, trainer, trial
from torch import Tensor

from raycl.catalog import catalog
from raycl.errors import MethodError
from raycl.learning.quadratic import Quadratic
from raycl.strategies.anchored import Anchored
from raycl.trial.trainer import Trainer

METHODS = [name for name in catalog().strategies.names() if issubclass(catalog().strategies.get(name), Anchored)]
LEARNED = [name for name in METHODS if name != "l2_init"]
"""Those that are pulled to what a task has learned, from the second task on; L2 Init's anchors never move."""
PENALTIES = (1e-3, 1e-1, 1e2, 1e10)


def test_the_methods_are_found() -> None:
    assert {"ewc", "si", "mas", "l2", "l2_init"} <= set(METHODS)


def past(trainer: Trainer) -> Quadratic:
    """A copy of what pulls in the next task."""
    assert isinstance(trainer.strategy, Anchored)
    copy = Quadratic()
    copy.load_state_dict(trainer.strategy.past.state_dict(), torch.device("cpu"))
    return copy


def displacement(name: str, penalty: float) -> float:
    """Sum of importance * (theta - theta*)^2 over the second task, of which both are those after the first."""
    learning = trainer(trial(name, "domain", options={"penalty": penalty}))
    learning.run_task()
    held = past(learning)
    learning.run_task()
    return 2 * penalty_of(held, dict(learning.strategy.network.named_parameters()))


def check_freezing(name: str) -> None:
    moved = [displacement(name, penalty) for penalty in PENALTIES]
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < 1e-2 * moved[0]


@pytest.mark.parametrize("name", METHODS)
def test_a_growing_penalty_freezes_what_matters(name: str) -> None:
    check_freezing(name)


class Aliased(Quadratic):
    """A mutant: theta* is the live parameter."""

    def merge(self, importance: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        super().merge(importance, parameters)
        self.anchor = {name: parameters[name].detach() for name in importance}

    def replace(self, importance: Mapping[str, Tensor], parameters: Mapping[str, Tensor], decay: float) -> None:
        super().replace(importance, parameters, decay)
        self.anchor = {name: parameters[name].detach() for name in importance}


@pytest.mark.parametrize("name", LEARNED)
def test_an_anchor_that_is_not_cloned_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.anchored.Quadratic", Aliased)
    with pytest.raises(AssertionError):
        check_freezing(name)


VARIANTS: list[tuple[str, dict[str, Any]]] = [*((name, {}) for name in METHODS), ("ewc", {"mode": "online"})]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_state_does_not_grow_with_tasks(name: str, options: dict[str, Any]) -> None:
    learning = trainer(trial(name, "domain", options=options))
    sizes = [row.cost.state_bytes for row in finish(learning) if row.task >= 0]
    network = sum(p.numel() * 4 for p in learning.strategy.network.parameters())
    assert sizes == [3 * network] * 3


@pytest.mark.parametrize("name", METHODS)
def test_without_a_penalty_nothing_is_kept(name: str) -> None:
    """That learning is then fine-tuning to the last bit, the contract tests say."""
    learning, naive = trainer(trial(name, "domain", options={"penalty": 0.0})), trainer(trial("naive", "domain"))
    cost, theirs = finish(learning)[-1].cost, finish(naive)[-1].cost
    assert (cost.state_bytes, cost.examples) == (theirs.state_bytes, theirs.examples)


@pytest.mark.parametrize("name", METHODS)
def test_a_penalty_that_diverges_is_an_error_that_names_it(name: str) -> None:
    options, training = {"penalty": 1e13}, {"optimizer": "sgd", "learning_rate": 0.05}
    with pytest.raises(MethodError, match="'penalty': 1000"):
        finish(trainer(trial(name, "domain", options=options, training=training)))


@cache
def class_incremental(name: str) -> float:
    return matrix(trial(name, "class", stream={"tasks": 5})).average_accuracy()


@pytest.mark.parametrize("name", METHODS)
def test_it_is_no_help_where_classes_of_different_tasks_are_told_apart(name: str) -> None:
    """With no old image in the batch, nothing pulls the output units of old and new classes apart."""
    assert class_incremental(name) <= class_incremental("naive") + 0.02


# -- the proximal step -----------------------------------------------------------------------------------------------

FACTORS = {"ewc": 1.0, "l2": 1.0, "si": 2.0, "mas": 2.0}
"""2 where the paper writes its penalty without the 1/2."""
RATE = 0.1
PLAIN = {"optimizer": "sgd", "learning_rate": RATE, "iterations": 1}


def check_one_update(name: str, factor: float) -> None:
    """In the first update of the second task: (theta + r lambda F theta*) / (1 + r lambda F), theta after its step."""
    penalty = 30.0 / RATE
    options = {"penalty": penalty, "penalty_step": "proximal"}
    learning, naive = (
        trainer(trial(method, "domain", options=own, training=PLAIN))
        for method, own in ((name, options), ("naive", {}))
    )
    learning.run_task()
    naive.run_task()
    held = past(learning)
    learning.run_task()
    naive.run_task()
    stepped = dict(naive.strategy.network.named_parameters())
    assert max(float(value.max()) for value in held.importance.values()) > 1e-3
    for key, theta in learning.strategy.network.named_parameters():
        pull = RATE * penalty * factor * held.importance[key].double()
        expected = (stepped[key].double() + pull * held.anchor[key]) / (1 + pull)
        torch.testing.assert_close(theta.detach().double(), expected.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", LEARNED)
def test_a_proximal_update_has_the_factor_of_the_paper(name: str) -> None:
    check_one_update(name, FACTORS[name])
    with pytest.raises(AssertionError):
        check_one_update(name, 3 - FACTORS[name])


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("name", METHODS)
def test_a_proximal_step_without_a_penalty_is_naive_to_the_bit(name: str, scenario: str) -> None:
    options = {**(catalog().strategies.get(name).naive_when or {}), "penalty_step": "proximal"}
    learning, naive = trainer(trial(name, scenario, options=options)), trainer(trial("naive", scenario))
    finish(learning)
    finish(naive)
    for key, value in naive.strategy.network.state_dict().items():
        assert torch.equal(learning.strategy.network.state_dict()[key], value)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adagrad", "rmsprop"])
@pytest.mark.parametrize("name", METHODS)
def test_a_proximal_step_is_stable_at_any_strength_and_holds_what_matters(name: str, optimizer: str) -> None:
    training = {"optimizer": optimizer, "learning_rate": 3e-3, "momentum": 0.9}
    moved = []
    for penalty in (1e-3, 1e13):
        options = {"penalty": penalty, "penalty_step": "proximal"}
        learning = trainer(trial(name, "domain", options=options, training=training))
        learning.run_task()
        held = past(learning)
        learning.run_task()
        moved.append(penalty_of(held, dict(learning.strategy.network.named_parameters())))
    assert moved[1] < 1e-2 * moved[0]


def fall(name: str) -> float:
    """How many times nearer both forms are with a quarter of the learning rate and four times the updates."""

    def gap(quarters: int) -> float:
        training = {"optimizer": "sgd", "learning_rate": 0.02 / 4**quarters, "iterations": 40 * 4**quarters}
        ends = []
        for step in ("gradient", "proximal"):
            options = {"penalty": 100.0 if name == "ewc" else 2.0, "penalty_step": step}
            learning = trainer(trial(name, "domain", stream={"tasks": 2}, options=options, training=training))
            finish(learning)
            ends.append(torch.cat([p.detach().flatten() for p in learning.strategy.network.parameters()]))
        return float((ends[0] - ends[1]).norm())

    return gap(0) / gap(1)


@pytest.mark.parametrize("name", METHODS)
def test_a_proximal_step_equals_the_gradient_in_the_limit_of_small_steps(name: str) -> None:
    """By four where the distance falls as the learning rate does; the paths that SI integrates come nearer too."""
    assert 3 < fall(name) < 7


@pytest.mark.parametrize("name", METHODS)
def test_a_pull_of_half_the_strength_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pull = Quadratic.pull
    monkeypatch.setattr(Quadratic, "pull", lambda self, theta, strength, steps: pull(self, theta, strength / 2, steps))
    assert fall(name) < 1.5


def hundred_tasks(name: str, step: str, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Permuted digits with SGD; nothing is measured on the way, which would take most of the time."""
    options = {"penalty_step": step, **LONG_STREAMS[name]}
    stream = {"name": "permuted", "tasks": 100, "train_per_task": 60}
    training = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 20, "epochs": 2}
    learning = trainer(trial(name, "domain", stream=stream, model={"hidden": [16]}, training=training, options=options))
    nothing = torch.zeros(100, dtype=torch.int64).numpy()
    monkeypatch.setattr(learning._evaluator, "measure", lambda strategy, task: (nothing, nothing))
    return learning


LONG_STREAMS: dict[str, dict[str, Any]] = {
    "ewc": {"penalty": 10.0},
    "si": {"penalty": 10.0},
    "mas": {},
    "progress_compress": {"penalty": 1000.0},
}


@pytest.mark.parametrize(
    "name", ["ewc", "si", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mas", "progress_compress"))]
)
def test_a_hundred_tasks_stay_finite_where_a_gradient_step_ends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importances add up until learning rate * penalty * F passes 2. The gradient form is the mutant."""
    finish(hundred_tasks(name, "proximal", monkeypatch))
    with pytest.raises(MethodError, match="set penalty_step: proximal, which is stable at any strength"):
        finish(hundred_tasks(name, "gradient", monkeypatch))


def test_an_importance_that_repels_has_no_proximal_step() -> None:
    with pytest.raises(ValueError, match="set clamp: true"):
        trial("si", options={"clamp": False, "penalty_step": "proximal"})


def test_the_older_options_alone_name_a_trial() -> None:
    """The option came later: at its default it is no part of what a trial is called."""
    for name in (*METHODS, "ar1", "ar1_latent_replay", "progress_compress"):
        assert catalog().strategies.get(name).Config.later()["penalty_step"] == ("gradient", None)
