"""Trials of SupSup on digits that its tests share."""

from __future__ import annotations

from typing import Any

import torch
from support import trainer, trial
from torch import Tensor

from raycl.strategies.supsup import SupSup
from raycl.trial.trainer import Trainer

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.5, "momentum": 0.9, "weight_decay": 1e-2},
    "adam": {"optimizer": "adam", "weight_decay": 1e-2},
    "kept": {"optimizer": "rmsprop", "weight_decay": 1e-2, "reset_optimizer": False, "gradient_clip": 0.5},
}
PERMUTED: dict[str, Any] = {
    "stream": {"name": "permuted", "tasks": 2, "normalize": "mean_std"},
    "model": {"hidden": [64, 64]},
    "training": {"learning_rate": 3e-3, "batch_size": 64, "iterations": 150},
}


def running(scenario: str = "task", **blocks: Any) -> Trainer:
    return trainer(trial("supsup", scenario, **blocks))


def method(running: Trainer) -> SupSup:
    assert isinstance(running.strategy, SupSup)
    return running.strategy


def images(running: Trainer, count: int = 50) -> Tensor:
    shape = method(running).context.image_shape
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
