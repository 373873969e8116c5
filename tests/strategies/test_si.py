"""Synaptic intelligence as a whole: what its importance counts, what it protects, and wrong variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from support import PERMUTED, matrix, trainer, trial
from torch import Tensor

from raycl.strategies.base import Position
from raycl.strategies.si import SI
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer


def running(scenario: str = "domain", **blocks: Any) -> Trainer:
    return trainer(trial("si", scenario, **blocks))


def importance(trainer: Trainer) -> Mapping[str, Tensor]:
    assert isinstance(trainer.strategy, SI)
    return trainer.strategy.past.importance


def after_first_task(**options: Any) -> Mapping[str, Tensor]:
    learning = running(options=options)
    learning.run_task()
    return importance(learning)


def test_the_first_task_does_not_see_the_penalty() -> None:
    weak, strong = after_first_task(penalty=0.1), after_first_task(penalty=1e6)
    assert all(torch.equal(value, strong[name]) for name, value in weak.items())
    assert any(value.any() for value in weak.values())


def check_penalty_free() -> None:
    """At one place and with one displacement, importance is the same whatever the penalty pulls with."""
    found = []
    for penalty in (1e-6, 1e6):
        learning = running(options={"penalty": penalty})
        learning.run_task()
        strategy = learning.strategy
        assert isinstance(strategy, SI)
        with torch.no_grad():
            for parameter in strategy.network.parameters():
                parameter += 0.01
        strategy.begin_task(1, None)  # type: ignore[arg-type]
        for parameter in strategy.network.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        at = Position(1, "train", 0, 0, 0.0, False)
        strategy.edit_gradients(None, at)  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in strategy.network.parameters():
                parameter -= 0.02
        strategy.after_update(None, at)  # type: ignore[arg-type]
        assert strategy._path is not None
        found.append(strategy._path.importance(0.1, clamp=False))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert all((value > 0).all() for value in found[0].values())


def test_only_the_gradient_of_the_task_counts() -> None:
    check_penalty_free()


def penalty_first(self: SI, batch: Batch, at: Position) -> None:
    """The mutant: the penalty's gradient has been added when the path is recorded."""
    assert self._path is not None
    self.past.add_gradients(self.parameters(), 2 * self.config.penalty)
    self._path.before_update()


def test_a_path_that_includes_the_penalty_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SI, "edit_gradients", penalty_first)
    with pytest.raises(AssertionError):
        check_penalty_free()


def test_the_penalty_has_no_half() -> None:
    """The gradient added is 2 c Omega (theta - theta*)."""
    learning = running(options={"penalty": 3.0})
    learning.run_task()
    strategy = learning.strategy
    assert isinstance(strategy, SI)
    anchor = {name: p.detach().clone() for name, p in strategy.network.named_parameters()}
    for parameter in strategy.network.parameters():
        parameter.data += 0.25
        parameter.grad = torch.zeros_like(parameter)
    strategy.begin_task(1, None)  # type: ignore[arg-type]
    strategy.edit_gradients(None, Position(1, "train", 0, 0, 0.0, False))  # type: ignore[arg-type]
    for name, parameter in strategy.network.named_parameters():
        moved = parameter.detach() - anchor[name]
        torch.testing.assert_close(parameter.grad, 2 * 3.0 * importance(learning)[name] * moved)


def test_importance_adds_up_over_tasks_and_the_anchor_follows() -> None:
    learning = running()
    learning.run_task()
    first = {name: value.clone() for name, value in importance(learning).items()}
    learning.run_task()
    assert all((value >= first[name]).all() for name, value in importance(learning).items())
    assert isinstance(learning.strategy, SI)
    for name, parameter in learning.strategy.network.named_parameters():
        assert torch.equal(learning.strategy.past.anchor[name], parameter)


def test_the_integral_starts_anew_with_every_task() -> None:
    """A second task that does not move adds nothing."""
    learning = running()
    learning.run_task()
    strategy = learning.strategy
    assert isinstance(strategy, SI)
    first = {name: value.clone() for name, value in importance(learning).items()}
    strategy.begin_task(1, None)  # type: ignore[arg-type]
    strategy.end_task(1, None)  # type: ignore[arg-type]
    assert all(torch.equal(value, first[name]) for name, value in importance(learning).items())


def test_it_forgets_less_than_naive_on_permuted_digits() -> None:
    ours = matrix(trial("si", "domain", options={"penalty": 5.0}, **PERMUTED)).average_accuracy()
    assert ours > matrix(trial("naive", "domain", **PERMUTED)).average_accuracy() + 0.02
