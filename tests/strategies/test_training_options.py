"""Every method under the options with which papers train: schedules, smoothed labels, dropout, rows held out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from strategies.every_method import ONE_EACH, assert_equal_state, small, stopped_after_every_task
from support import counts, finish, trainer

from raycl.catalog import catalog
from raycl.strategies.base import Strategy
from raycl.trial.trainer import Trainer

ALL_ON = {
    **{"epochs": 3, "schedule": "one_cycle", "betas": [0.8, 0.99], "gradient_clip": 5.0, "clip_by": "group"},
    **{"label_smoothing": 0.1, "held_out": 0.2, "keep_best": True},
}
PLAIN = {"name": "mlp", "hidden": [32]}
DROPPED = {**PLAIN, "dropout": 0.2}
WHOLE = {"continual_backprop"}
"""Methods that take a network of linear layers and ReLUs alone."""
OWN_RATES = {"gdumb"}
"""Methods that learn by a schedule of their own."""


def method(name: str) -> type[Strategy]:
    found: type[Strategy] = catalog().strategies.get(name)
    return found


def training(name: str) -> dict[str, Any]:
    """All options that a method takes."""
    left_out = set() if method(name).keeps_best else {"keep_best", "held_out"}
    left_out |= set() if method(name).smooths_labels else {"label_smoothing"}
    return {key: value for key, value in ALL_ON.items() if key not in left_out}


@pytest.mark.parametrize(("name", "scenario"), ONE_EACH)
class TestEveryMethod:
    def test_resuming_equals_never_having_stopped_with_all_on(self, name: str, scenario: str) -> None:
        spec = small(name, scenario, training=training(name), model=PLAIN if name in WHOLE else DROPPED)
        whole = trainer(spec)
        rows = finish(whole)
        resumed, resumed_rows = stopped_after_every_task(spec)
        assert counts(resumed_rows) == counts(rows)
        assert_equal_state(resumed.state_dict(), whole.state_dict())

    def test_a_rate_that_falls_to_nothing_leaves_the_end_of_a_task_as_it_is(
        self, name: str, scenario: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After the drop, no optimiser moves anything: the schedule reaches every one that a method builds."""
        drop = {"multistep": {"at": [0.5], "factor": 1e-30}}
        running = trainer(small(name, scenario, training={"epochs": 2, "schedule": drop}))
        moved = moves_after(running, 0.5, monkeypatch)
        _ = finish(running) if method(name).at_once else running.run_task()
        assert moved or name in OWN_RATES
        assert not any(moved)


def moves_after(running: Trainer, done: float, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each step of an optimiser in the later part of a phase: whether it changed a parameter by more than 1e-20."""
    moved: list[bool] = []
    optimizers = running._optimizers
    plain = optimizers.step

    def step(*names: str) -> None:
        before = [parameter.detach().clone() for parameter in optimizers.parameters()]
        plain(*names)
        rates = [
            group["lr"] / group["base_lr"]
            for made in optimizers._optimizers.values()
            for group in made.fused.param_groups
        ]
        if all(rate < 1e-20 for rate in rates):
            pairs = zip(before, optimizers.parameters(), strict=True)
            moved.append(any(not torch.allclose(old, new, rtol=0.0, atol=1e-20) for old, new in pairs))

    monkeypatch.setattr(optimizers, "step", step)
    return moved
