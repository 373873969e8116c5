"""What every method with a quadratic pull towards earlier weights stands by, and what none of them can do."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from support import finish, matrix, trainer, trial
from torch import Tensor

from raycl.catalog import catalog
from raycl.errors import MethodError
from raycl.learning.quadratic import Quadratic
from raycl.strategies.anchored import Anchored
from raycl.trainer import Trainer

METHODS = [name for name in catalog().strategies.names() if issubclass(catalog().strategies.get(name), Anchored)]
PENALTIES = (1e-3, 1e-1, 1e2, 1e10)


def test_the_methods_are_found() -> None:
    assert {"ewc", "si", "mas", "l2"} <= set(METHODS)


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
    return 2 * float(held.value(dict(learning.strategy.network.named_parameters())))


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


@pytest.mark.parametrize("name", METHODS)
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
