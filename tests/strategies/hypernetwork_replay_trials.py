"""Trials of HNET+R on digits that its tests share."""

from __future__ import annotations

from typing import Any, cast

from support import ahead, trial

from raycl.spec.trial import TrialSpec
from raycl.strategies.base import TaskData
from raycl.strategies.hypernetwork.replay import HypernetworkReplay
from raycl.trial.trainer import Trainer

SMALL: dict[str, Any] = {"chunk_size": 1000, "latent_dim": 10, "encoder_hidden": [64], "decoder_hidden": [32]}
LEARNED: dict[str, Any] = {
    "training": {"iterations": 250, "batch_size": 32},
    "options": {"beta": 1.0, "new_units": "absent"},
}
"""Enough to draw digits."""


def spec(scenario: str = "class", options: dict[str, Any] | None = None, **blocks: Any) -> TrialSpec:
    return trial("hypernetwork_replay", scenario, options={**SMALL, **(options or {})}, **blocks)


def method(running: Trainer) -> HypernetworkReplay:
    assert isinstance(running.strategy, HypernetworkReplay)
    return running.strategy


def after(tasks: int, scenario: str = "class", options: dict[str, Any] | None = None, **blocks: Any) -> Trainer:
    """A trial that has learned so many tasks."""
    return ahead(spec(scenario, options, **blocks), tasks)


def begun(running: Trainer) -> HypernetworkReplay:
    """The trial's method at the beginning of its next task."""
    ours = method(running)
    ours.grow(running.next_task)
    ours.begin_task(running.next_task, cast(TaskData, None))
    ours.train(True)
    return ours
