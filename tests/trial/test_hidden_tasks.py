"""Where boundaries are hidden, a method sees one task without end: no batch, position or question names another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import finish, trainer, trial

from raycl.catalog import catalog
from raycl.spec.trial import TrialSpec
from raycl.strategies.base import Losses, Position
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

OPTIONS: dict[str, dict[str, Any]] = {"exstream": {"rehearse_every": 20}, "gdumb": {"passes": 2}}
FREE = [
    pytest.param(name, scenario, id=f"{name}-{scenario}")
    for name in catalog().strategies.names()
    for scenario in ("domain", "class")
    if catalog().strategies.get(name).boundary_free
    and scenario in catalog().strategies.get(name).scenarios
    and (name, scenario) != ("gdumb", "domain")  # which the reader refuses: it balances over pairs of task and class
]


def hidden(name: str, scenario: str) -> TrialSpec:
    stream = {"boundaries": "hidden", "train_per_task": 60}
    return trial(name, scenario, stream=stream, training={"epochs": 1}, options=OPTIONS.get(name, {}))


def told(running: Trainer) -> set[int]:
    """Every task that the method is told of while it learns."""
    seen: set[int] = set()
    strategy = running.strategy

    def watch(name: str) -> None:
        asked = getattr(strategy, name)

        def method(task: int, *rest: Any) -> Any:
            seen.add(task)
            return asked(task, *rest)

        setattr(strategy, name, method)

    for name in ("grow", "trainable", "phases", "begin_task", "end_task"):
        watch(name)
    gather = running._run_phase

    def run_phase(phase: Any, task: int, inside: Any) -> None:
        step = phase.step or strategy.step

        def stepped(batch: Batch, at: Position) -> Losses:
            seen.update(batch.task.tolist())
            seen.add(at.task)
            losses: Losses = step(batch, at)
            return losses

        object.__setattr__(phase, "step", stepped)
        gather(phase, task, inside)

    running._run_phase = run_phase  # type: ignore[method-assign]
    finish(running)
    if running._memory is not None:
        seen.update(running._memory.tasks.tolist())
    return seen


@pytest.mark.parametrize(("name", "scenario"), FREE)
def test_no_method_is_told_of_a_task(name: str, scenario: str) -> None:
    running = trainer(hidden(name, scenario))
    assert told(running) == {0}
    assert running.next_task == 3


def test_mutant_batches_with_their_true_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_told", lambda self, task: task)
    assert told(trainer(hidden("replay", "class"))) == {0, 1, 2}


def test_where_boundaries_are_given_tasks_are_told() -> None:
    spec = trial("replay", stream={"train_per_task": 60}, training={"epochs": 1})
    assert told(trainer(spec)) == {0, 1, 2}


def test_nothing_else_moves_by_hiding_what_a_method_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay over all classes reads no task id: its network is the same to the bit as when batches still told it."""
    now, before = trainer(hidden("replay", "class")), trainer(hidden("replay", "class"))
    finish(now)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_told", lambda self, task: task)
        finish(before)
    ours, theirs = now.strategy.network.state_dict(), before.strategy.network.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
