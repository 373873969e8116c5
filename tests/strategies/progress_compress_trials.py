"""Trials of progress and compress on digits that its tests share."""

from __future__ import annotations

from typing import Any

from support import trainer, trial

from raycl.strategies.progress_compress import ProgressCompress
from raycl.trial.trainer import Trainer

PATH = "raycl.strategies.progress_compress.ProgressCompress"
NORM = {"hidden": [32, 24], "norm": "batch"}
PLAIN = {"hidden": [32, 24]}
DECAY = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-2}


def running(scenario: str = "domain", **blocks: Any) -> Trainer:
    return trainer(trial("progress_compress", scenario, **{"model": PLAIN, **blocks}))


def method(trainer: Trainer) -> ProgressCompress:
    assert isinstance(trainer.strategy, ProgressCompress)
    return trainer.strategy
