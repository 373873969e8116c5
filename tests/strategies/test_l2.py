"""L2, the control: every weight is pulled alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import trainer, trial

from raycl.strategies.base import Position
from raycl.strategies.l2 import L2
from raycl.trial.trainer import Trainer


def running(scenario: str = "domain", **blocks: Any) -> Trainer:
    return trainer(trial("l2", scenario, **blocks))


@pytest.mark.parametrize("scenario", ["domain", "class"])
def test_every_old_weight_is_pulled_alike_and_new_units_are_free(scenario: str) -> None:
    learning = running(scenario, options={"penalty": 3.0})
    learning.run_task()
    strategy = learning.strategy
    assert isinstance(strategy, L2)
    old = {name: p.detach().clone() for name, p in strategy.network.named_parameters()}
    strategy.grow(1)
    for parameter in strategy.network.parameters():
        parameter.data += 0.5
        parameter.grad = torch.zeros_like(parameter)
    strategy.edit_gradients(None, Position(1, "train", 0, 0, 0.0, False))  # type: ignore[arg-type]
    for name, parameter in strategy.network.named_parameters():
        rows = len(old[name])
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad[:rows], torch.full_like(old[name], 1.5))
        assert not parameter.grad[rows:].any()
        assert (len(parameter) > rows) == (scenario == "class" and name.startswith("head"))


def test_the_anchor_is_the_last_task_alone() -> None:
    learning = running()
    learning.run_task()
    learning.run_task()
    assert isinstance(learning.strategy, L2)
    past = learning.strategy.past
    for name, parameter in learning.strategy.network.named_parameters():
        assert torch.equal(past.anchor[name], parameter)
        assert bool((past.importance[name] == 1).all())
