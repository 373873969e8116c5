"""Trials of HAT on digits that its tests share."""

from __future__ import annotations

from typing import Any

import pytest
from support import trainer, trial

from raycl.strategies.hat import HAT
from raycl.trial.trainer import Trainer

PAPER: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.2}


def running(**blocks: Any) -> Trainer:
    return trainer(trial("hat", "task", **blocks))


def method(trainer: Trainer) -> HAT:
    assert isinstance(trainer.strategy, HAT)
    return trainer.strategy


def use(mutant: type[HAT], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.hat.HAT", mutant)
