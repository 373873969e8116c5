"""EWC as a whole: equal to naive at 0 in both modes, better than naive on permuted digits, its Fisher information."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support import PERMUTED, finish, matrix, trainer, trial
from torch import Tensor

from raycl.errors import MethodError
from raycl.strategies.ewc import EWC, EWCConfig
from raycl.trial.trainer import Trainer


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


def test_an_infinite_fisher_information_is_an_error_that_names_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    infinite = {"head.bias": torch.tensor([float("inf")])}
    monkeypatch.setattr("raycl.strategies.ewc.diagonal_fisher", lambda *arguments: infinite)
    with pytest.raises(MethodError, match=r"Fisher information after task 0 must be finite .*lower penalty \(100\)"):
        running().run_task()


def test_options_are_strict() -> None:
    for wrong in ({"penalty": -1}, {"penalty": "100"}, {"mode": "both"}, {"online_decay": 1.5}, {"fisher_examples": 0}):
        with pytest.raises(ValidationError):
            EWCConfig.model_validate_json(json.dumps(wrong))
