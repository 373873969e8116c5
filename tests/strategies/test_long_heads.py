"""Heads per task of a long stream: an update multiplies and steps the current task's rows, and gives what all would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import finish, trainer, trial
from torch import Tensor, nn

from raycl.spec import revisions
from raycl.strategies.base import Strategy
from raycl.streams import scenario
from raycl.trial.trainer import Trainer

STREAM = {"tasks": 3, "train_per_task": 60}
METHODS = ("naive", "multi_head", "ewc", "si", "agem", "lwf", "replay")


def running(method: str, monkeypatch: pytest.MonkeyPatch, is_long: bool, **training: Any) -> Trainer:
    monkeypatch.setattr(scenario, "long_head", lambda tasks: is_long)
    settings = {"iterations": 20, "learning_rate": 5e-3, **training}
    return trainer(trial(method, "task", stream=STREAM, training=settings))


def learned(*arguments: Any, **training: Any) -> list[Tensor]:
    made = running(*arguments, **training)
    finish(made)
    return [value.clone() for value in made.strategy.network.state_dict().values()]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("method", METHODS)
def test_weights_are_those_of_the_whole_head(method: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, own = (learned(method, monkeypatch, is_long, optimizer=optimizer) for is_long in (False, True))
    torch.testing.assert_close(own, whole, rtol=1e-4, atol=1e-5)


def test_another_tasks_rows_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the rows of the task before are multiplied and stepped."""
    whole = learned("naive", monkeypatch, False)
    monkeypatch.setattr(nn.functional, "cross_entropy", _one_off(nn.functional.cross_entropy))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(learned("naive", monkeypatch, True), whole, rtol=1e-4, atol=1e-5)


def _one_off(cross_entropy: Any) -> Any:
    return lambda logits, y, **options: cross_entropy(logits.roll(1, 1), y, **options)


@pytest.mark.parametrize("method", ["naive", "ewc", "agem"])
def test_only_the_tasks_own_rows_are_multiplied(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of new rows; A-GEM's old rows are of several tasks."""
    made = running(method, monkeypatch, True)
    widths: list[int] = []
    loss = Strategy.loss

    def watched(self: Strategy, batch: Any) -> Any:
        hook = self.network.head.register_forward_hook(lambda head, inputs, logits: widths.append(logits.shape[1]))
        try:
            return loss(self, batch)
        finally:
            hook.remove()

    monkeypatch.setattr(Strategy, "loss", watched)
    finish(made)
    assert set(widths) == {len(made.scenario.units(0))}


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad", "rmsprop"])
def test_only_the_tasks_own_rows_are_stepped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = running("naive", monkeypatch, True, optimizer=name)
    finish(made)
    stepped = sum(p.numel() for group in made._optimizers["network"].param_groups for p in group["params"])
    head, backbone = made.strategy.network.head, made.strategy.network.backbone
    assert stepped - sum(p.numel() for p in backbone.parameters()) == len(made.scenario.units(2)) * (head.features + 1)


def test_answers_are_those_of_the_whole_head_where_the_task_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    made = running("naive", monkeypatch, True)
    finish(made)
    x = torch.randn(9, 1, 8, 8)
    with torch.no_grad():
        every = made.strategy.network(x)
        for task in range(3):
            units = made.scenario.units(task)
            found = made.strategy.predict(x, task)
            torch.testing.assert_close(found[:, units.start : units.stop], every[:, units.start : units.stop])
            assert found.shape == every.shape
            assert int(found.isfinite().sum()) == 9 * len(units)
    assert not made.strategy.ignores_task, "rows of several tasks in one batch would need several heads"


@pytest.mark.parametrize("method", ["naive", "ewc"])
def test_a_resumed_trial_is_the_same_to_the_bit(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"optimizer": "adam", "reset_optimizer": False}
    straight = learned(method, monkeypatch, True, **settings)
    first, second = (running(method, monkeypatch, True, **settings) for _ in range(2))
    first.run_task()
    second.load_state_dict(first.state_dict())
    finish(second)
    assert all(map(torch.equal, straight, second.strategy.network.state_dict().values()))


@pytest.mark.parametrize(
    ("tasks", "scenario_name", "policy", "touched"),
    [
        (100, "task", "auto", False),
        (101, "task", "auto", True),
        (101, "class", "auto", False),
        (101, "class", "current", True),
        (101, "domain", "auto", False),
    ],
)
def test_long_streams_of_own_units_alone_are_another_revision(
    tasks: int, scenario_name: str, policy: str, touched: bool
) -> None:
    stream = {"name": "permuted", "tasks": tasks}
    spec = trial("naive", scenario_name, stream=stream, training={"active_logits": policy})
    assert ("long heads" in spec.revisions) == touched
    assert revisions.long_head is scenario.long_head, "one rule for names and for numbers"
