"""Base of methods that keep a gradient from pointing against those of a memory of old tasks.

Memory gradients are taken in evaluation mode, so that they move no running statistics, and of the loss with which the
rows were learned: where a task's softmax ran over its own units only, so does its memory's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from raycl.spec.acting import KEPT
from raycl.spec.needs import Idle
from raycl.spec.revisions import LATE_ROWS, Change
from raycl.strategies.base import Position, Strategy
from raycl.streams.task import Batch

P = TypeVar("P")
"""What a method holds its old gradients in."""


class Constrained(Strategy, ABC, Generic[P]):
    """Project each gradient against :meth:`past_gradients`."""

    changes: ClassVar[tuple[Change, ...]] = (LATE_ROWS,)
    uses_memory: ClassVar[bool] = True
    acts_from = dict.fromkeys(KEPT, 2)
    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(("memory.batch_size", "memory.combine", "memory.mix"), "stored rows constrain gradients, and add no loss"),
    )

    def grow(self, task: int) -> None:
        super().grow(task)
        self._parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @abstractmethod
    def past_gradients(self) -> P | None:
        """``[constraints, parameters]`` in some form, of old tasks at the present weights; None: there are none."""

    @abstractmethod
    def project(self, gradient: Tensor, past: P) -> Tensor:
        """The gradient ``[parameters]`` to take; the very same tensor where nothing objects, if that is known."""

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        past = self.past_gradients()
        if past is None:
            return
        parameters = self.parameters()
        gradient = flat([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
        projected = self.project(gradient, past)
        if projected is gradient:
            return
        parts = torch.split(projected, [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def remember(self, batch: Batch, at: Position) -> None:
        self.offer({"image": batch.image, "label": batch.y, "task": batch.task}, at)

    def parameters(self) -> list[nn.Parameter]:
        """What gradients are of, from the task's start; every one takes part, so that none shifts those behind it."""
        return self._parameters

    def memory_losses(self, logits: Tensor, rows: Batch) -> Tensor:
        """Losses ``[rows]`` of rows of old tasks."""
        scenario = self.context.scenario
        if scenario.policy != "current":
            return self.cross_entropy(logits, rows, reduction="none")
        own = scenario.mask(rows.task, "own", self.task)
        return self.label_loss(logits, rows.y, own, "none")


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector of all numbers."""
    return torch.cat([tensor.flatten() for tensor in tensors])
