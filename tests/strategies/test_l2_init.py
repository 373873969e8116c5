"""L2 Init: a pull to where every weight began, whatever has been learned since."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import finish, matrix, trainer, trial

from raycl.errors import MethodError
from raycl.strategies.base import Position, Strategy
from raycl.strategies.l2_init import L2Init
from raycl.trial.trainer import Trainer

DECAYED = {"weight_decay": 1e-2, "epochs": 1}
AT = Position(1, "train", 0, 0, 0.0, False)


def running(scenario: str = "domain", **blocks: Any) -> tuple[Trainer, L2Init]:
    learning = trainer(trial("l2_init", scenario, **blocks))
    assert isinstance(learning.strategy, L2Init)
    return learning, learning.strategy


def values(strategy: Strategy) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in strategy.network.named_parameters()}


@pytest.mark.parametrize("scenario", ["domain", "class"])
def test_anchors_are_where_weights_and_new_units_began(scenario: str) -> None:
    """A network that has learned nothing grows through the same tasks."""
    learning, strategy = running(scenario)
    finish(learning)
    beside = trainer(trial("naive", scenario)).strategy
    for task in range(3):
        beside.grow(task)
    for name, began in values(beside).items():
        assert torch.equal(strategy.past.anchor[name], began)
        assert not torch.equal(values(strategy)[name], began)


def test_the_gradient_is_twice_the_penalty_times_the_distance() -> None:
    """The paper writes its penalty without a 1/2."""
    learning, strategy = running(options={"penalty": 3.0})
    learning.run_task()
    for parameter in strategy.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    strategy.edit_gradients(None, AT)  # type: ignore[arg-type]
    for name, parameter in strategy.network.named_parameters():
        assert parameter.grad is not None
        distance = parameter.detach() - strategy.past.anchor[name]
        torch.testing.assert_close(parameter.grad, 1 + 2 * 3.0 * distance)


def test_a_first_proximal_update_by_hand() -> None:
    """theta <- (theta' + 2 r lambda theta_0) / (1 + 2 r lambda), theta' after the step of fine-tuning."""
    plain = {"optimizer": "sgd", "learning_rate": 0.1, "iterations": 1}
    learning, strategy = running(options={"penalty": 30.0, "penalty_step": "proximal"}, training=plain)
    naive = trainer(trial("naive", "domain", training=plain))
    learning.run_task()
    naive.run_task()
    for name, theta in values(strategy).items():
        pull = 2 * 0.1 * 30.0
        expected = (values(naive.strategy)[name] + pull * strategy.past.anchor[name]) / (1 + pull)
        torch.testing.assert_close(theta, expected)


def test_the_pull_reaches_the_heads_of_earlier_tasks() -> None:
    """Whether weights decay or not: what no loss reaches stays, and the pull reaches every row."""
    for training in ({"epochs": 1}, DECAYED):
        learning, strategy = running("task", options={"penalty": 1.0}, training=training)
        learning.run_task()
        before = strategy.network.head.weight[:2].detach().clone()
        learning.run_task()
        start, after = strategy.past.anchor["head.weight"][:2], strategy.network.head.weight[:2].detach()
        assert (after - start).norm() < 0.5 * (before - start).norm()


def test_a_pull_that_would_move_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant says nothing of the rows it reaches: its pull would be lost wherever weights decay."""
    monkeypatch.delattr(L2Init, "learning_units")
    learning, _ = running("task", options={"penalty": 1.0}, training=DECAYED)
    learning.run_task()
    with pytest.raises(MethodError, match=r"l2_init: a gradient reaches rows .* \(in task 1, phase 'train'\)"):
        learning.run_task()
    finish(running("task", options={"penalty": 0.0}, training=DECAYED)[0])


def test_what_may_not_leave_its_start_learns_less() -> None:
    stiff, naive = matrix(trial("l2_init", options={"penalty": 10.0})), matrix(trial("naive"))
    assert stiff.accuracy[-1, -1] < naive.accuracy[-1, -1]
