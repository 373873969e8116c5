"""EWC as a whole: equal to naive at 0, frozen at infinity, better than naive on permuted digits; and its mutants."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support import finish, matrix, trainer, trial
from torch import Tensor

from raycl.errors import MethodError
from raycl.learning.quadratic import Quadratic
from raycl.strategies.ewc import EWC, EWCConfig
from raycl.trainer import Trainer


def running(scenario: str = "domain", **blocks: Any) -> Trainer:
    return trainer(trial("ewc", scenario, **blocks))


def method(trainer: Trainer) -> EWC:
    assert isinstance(trainer.strategy, EWC)
    return trainer.strategy


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.strategy.network.state_dict().items()}


@pytest.mark.parametrize("mode", ["separate", "online"])
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_without_a_penalty_it_is_naive(scenario: str, mode: str) -> None:
    ours, naive = running(scenario, options={"penalty": 0.0, "mode": mode}), trainer(trial("naive", scenario))
    finish(ours)
    finish(naive)
    assert all(torch.equal(value, weights(naive)[name]) for name, value in weights(ours).items())
    assert ours.strategy.state_bytes() == naive.strategy.state_bytes()


class Aliased(Quadratic):
    """A mutant: theta* is the live parameter."""

    def merge(self, importance: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        super().merge(importance, parameters)
        self.anchor = {name: parameters[name].detach() for name in importance}


def displacement(penalty: float) -> float:
    """Sum of F (theta - theta*)^2 over the second task, of which F and theta* are those after the first."""
    learning = running(options={"penalty": penalty})
    learning.run_task()
    past = Quadratic()
    past.load_state_dict(method(learning).past.state_dict(), torch.device("cpu"))
    learning.run_task()
    return 2 * float(past.value(dict(learning.strategy.network.named_parameters())))


def check_freezing() -> None:
    moved = [displacement(penalty) for penalty in (0.1, 1e2, 1e4, 1e10)]
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < 1e-3 * moved[0]


def test_a_growing_penalty_freezes_what_matters() -> None:
    check_freezing()


def test_an_anchor_that_is_not_cloned_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.anchored.Quadratic", Aliased)
    with pytest.raises(AssertionError):
        check_freezing()


PERMUTED = {
    "stream": {"name": "permuted", "tasks": 3},
    "model": {"hidden": [64, 64]},
    "training": {"learning_rate": 1e-3, "batch_size": 32, "iterations": 200},
}


@pytest.fixture(scope="module")
def naive_accuracy() -> float:
    return matrix(trial("naive", "domain", **PERMUTED)).average_accuracy()


@pytest.mark.parametrize("fisher", ["exact", "sampled", "empirical"])
def test_it_forgets_less_than_naive_on_permuted_digits(fisher: str, naive_accuracy: float) -> None:
    ours = matrix(trial("ewc", "domain", options={"penalty": 100.0, "fisher": fisher}, **PERMUTED)).average_accuracy()
    assert ours > naive_accuracy + 0.02


def test_only_the_active_head_has_importance() -> None:
    learning = running("task")
    learning.run_task()
    learning.run_task()
    ours = method(learning)
    first = ours.past.importance["head.weight"].clone()
    assert first.shape[0] == 4
    learning.run_task()
    assert torch.equal(ours.past.importance["head.weight"][:4], first)
    assert ours.past.importance["head.weight"][4:].any()


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_state_does_not_grow_with_tasks(mode: str) -> None:
    learning = running("domain", options={"mode": mode})
    sizes = [row.cost.state_bytes for row in finish(learning) if row.task >= 0]
    network = sum(value.numel() * 4 for value in weights(learning).values())
    assert sizes == [3 * network] * 3


def test_online_keeps_the_last_parameters_and_a_decaying_importance() -> None:
    learning = running("domain", options={"mode": "online", "online_decay": 0.0})
    finish(learning)
    ours = method(learning)
    assert all(torch.equal(ours.past.anchor[name], value) for name, value in weights(learning).items())
    kept = running("domain", options={"mode": "online", "online_decay": 1.0})
    kept.run_task()
    first = method(kept).past.importance["backbone.1.weight"].clone()
    kept.run_task()
    assert (method(kept).past.importance["backbone.1.weight"] >= first).all()


def test_fisher_examples_bound_the_pass() -> None:
    every, some = (running(options={"fisher_examples": count}).run_task()[-1].cost for count in (None, 20))
    naive = trainer(trial("naive", "domain")).run_task()[-1].cost
    assert some.examples == naive.examples + 20
    assert every.examples == naive.examples * 3 // 2  # two epochs and one pass


def test_a_penalty_that_diverges_is_an_error_that_names_it() -> None:
    learning = running(options={"penalty": 1e13}, training={"optimizer": "sgd", "learning_rate": 0.05})
    with pytest.raises(MethodError, match="'penalty': 1000"):
        finish(learning)


def test_an_infinite_fisher_information_is_an_error_that_names_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    infinite = {"head.bias": torch.tensor([float("inf")])}
    monkeypatch.setattr("raycl.strategies.ewc.diagonal_fisher", lambda *arguments: infinite)
    with pytest.raises(MethodError, match=r"Fisher information after task 0 must be finite .*lower penalty \(100\)"):
        running().run_task()


def test_options_are_strict() -> None:
    for wrong in ({"penalty": -1}, {"penalty": "100"}, {"mode": "both"}, {"online_decay": 1.5}, {"fisher_examples": 0}):
        with pytest.raises(ValidationError):
            EWCConfig.model_validate_json(json.dumps(wrong))
