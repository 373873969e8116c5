"""GEM, gradient episodic memory: no update may raise, to first order, the loss on any old task's memory.

Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017 (arXiv 1706.08840), algorithm 1.
Each old task's rows in memory give one gradient; where the new gradient points against any of them, it is replaced by
the nearest one that points against none (:mod:`raycl.learning.projection`). The guarantee is about the gradient, so
the paper's plain SGD without momentum is the honest optimiser; others run, but their step is not the projection.

Departures:
- Which rows stay is the sweep's ``memory`` block. The paper keeps the last m rows of every task (``unit: task``,
  ``selection: ring``). The default here is a reservoir, which for ``unit: task`` is a sample of the same distribution
  where a task's rows come shuffled, and which shares a total capacity among tasks, where a ring would forget old ones.
- Memory gradients are taken in evaluation mode, so that they move no running statistics.
- One gradient per old task in a loop: measured, a pass vectorised over tasks is slower from 50 rows a task on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.learning.projection import project
from raycl.memory.buffer import everything
from raycl.models.network import frozen_statistics
from raycl.spec.options import NonNegative
from raycl.strategies.base import Context, Position, Strategy, StrategyConfig, TaskData
from raycl.streams.task import Batch


class GEMConfig(StrategyConfig):
    """How hard old tasks push."""

    search_space: ClassVar[dict[str, Any]] = {"memory_strength": {"uniform": [0.0, 1.0]}}

    memory_strength: NonNegative = Field(
        0.5, description="gamma: least weight of each old gradient in a projection; more favours backward transfer"
    )


class GEM(Strategy):
    """Project each gradient so that no old task's memory objects."""

    Config = GEMConfig
    uses_memory: ClassVar[bool] = True
    paper: ClassVar[str] = "Lopez-Paz and Ranzato 2017, Gradient episodic memory (arXiv 1706.08840)"

    def __init__(self, config: GEMConfig, context: Context) -> None:
        super().__init__(config, context)
        self.config: GEMConfig = config
        self._past: Batch | None = None

    def begin_task(self, task: int, data: TaskData) -> None:
        """Read the old tasks' rows once; a slot that a new row takes over during the task no longer counts."""
        self._past = self.replayed(everything(self.memory)) if len(self.memory) else None

    def end_task(self, task: int, data: TaskData) -> None:
        self._past = None

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        past = [self._gradient(rows) for rows in self._past_tasks()]
        if not past:
            return
        parameters = list(self.network.parameters())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        gradient = _flat(gradients)
        projected = project(gradient, torch.stack(past), self.config.memory_strength)
        if projected is gradient:
            return
        parts = torch.split(projected, [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def remember(self, batch: Batch, at: Position) -> None:
        if at.epoch == 0 or self.context.memory_config.insert == "every_epoch":
            self.memory.add({"image": batch.image, "label": batch.y, "task": batch.task})

    def _past_tasks(self) -> Iterator[Batch]:
        """What is still in memory of each old task."""
        past = self._past
        if past is None:
            return
        alive = (self.memory.tasks[: len(past)] < self.task).to(past.task.device)
        for task in range(self.task):
            rows = alive & (past.task == task)
            if bool(rows.any()):
                kept = past[rows]
                x = self.context.augment(self.context.normalize(kept.image))
                yield Batch(kept.image, x, kept.y, kept.task, kept.replayed)

    def _gradient(self, rows: Batch) -> Tensor:
        """Gradient ``[parameters]`` of the mean loss over the rows of one old task."""
        scenario = self.context.scenario
        policy = "own" if scenario.policy == "current" else scenario.policy
        mask = scenario.mask(rows.task, policy, self.task)
        with frozen_statistics(self.network):
            logits = self.network(rows.x).masked_fill(~mask, float("-inf"))
        loss = nn.functional.cross_entropy(logits, rows.y)
        parameters = list(self.network.parameters())
        return _flat(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))


def _flat(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
