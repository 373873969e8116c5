"""Whether the answers for old tasks stay as they were, to the last bit, whatever the optimiser does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import finish
from torch import Tensor

from raycl.strategies.base import TaskData
from raycl.trial.trainer import Trainer

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-2},
    "adam": {"optimizer": "adam", "weight_decay": 1e-2},
    "adamw": {"optimizer": "adamw", "weight_decay": 1e-1},
    "kept": {"optimizer": "adam", "weight_decay": 1e-2, "reset_optimizer": False, "gradient_clip": 0.5},
}
"""Each moves a weight whose gradient is zero."""


def images(trainer: Trainer) -> Tensor:
    """Noise of the stream's size, ``[50, channels, height, width]``."""
    shape = trainer.strategy.context.image_shape
    return torch.rand(50, *shape, generator=torch.Generator().manual_seed(0))


def answers(trainer: Trainer, task: int) -> Tensor:
    """Logits ``[50, units]`` of a task's own units."""
    units = trainer.strategy.context.scenario.units(task)
    trainer.strategy.train(False)
    with torch.no_grad():
        return trainer.strategy.predict(images(trainer), task)[:, units.start : units.stop].clone()


def check_old_answers(learning: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task's logits when it was learned, before any evaluation, and after this and every later task."""
    learned: list[Tensor] = []
    end_task = learning.strategy.end_task

    def learn(task: int, data: TaskData) -> None:
        end_task(task, data)
        learned.append(answers(learning, task))

    def compare(trainer: Trainer) -> None:
        for task, before in enumerate(learned):
            assert torch.equal(answers(trainer, task), before), f"task {task} after task {trainer.next_task - 1}"

    monkeypatch.setattr(learning.strategy, "end_task", learn)
    finish(learning, compare)
    assert len(learned) == learning.num_tasks
    assert not torch.equal(learned[0], learned[1])
