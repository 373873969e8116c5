"""The lower part of a network, which is frozen or slowed once it has learned the first task, or from the start.

Frozen means without gradients, outside the optimiser and in evaluation mode, so that running statistics stay as well.
A slowed part goes on to learn at a share of the learning rate; its running statistics stay in any case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raycl.models.network import frozen_statistics
from raycl.spec.setting import Setting
from raycl.strategies.base import Rows, TaskData, Trainable
from raycl.streams.task import Batch

Freeze = Literal["after_first_task", "from_start"]
FREEZE = "from_start: for a model with pretrained weights"
"""Describes the option."""

LATENT_BATCH = 500
"""Rows that go through the lower part at once where nothing is learned from them."""


def settled_from(at: Setting) -> int:
    """The first task, counted from 1, in which the lower part is frozen or slowed."""
    return 1 if at.options.freeze == "from_start" else 2


class LowerPart:
    """What lies below a cut, and what becomes of it.

    Args:
        module: images ``[batch, channels, height, width]`` -> activations ``[batch, *]``.
        freeze: from when on it is frozen or slowed.
        learning_rate: factor on the learning rate from then on; 0 freezes.
    """

    def __init__(self, module: nn.Module, freeze: Freeze, learning_rate: float = 0.0) -> None:
        self.module = module
        self._freeze = freeze
        self._learning_rate = learning_rate

    def settled(self, task: int) -> bool:
        """Whether it is frozen, or slowed, during a task."""
        return task > 0 or self._freeze == "from_start"

    def frozen(self, task: int) -> bool:
        return self.settled(task) and not self._learning_rate

    # -- growth and optimisation -------------------------------------------------------------------------------

    def begin(self, task: int) -> None:
        """To be called where the network grows: a frozen part has no gradients from now on."""
        if self.frozen(task):
            self.module.requires_grad_(False)
            self.module.zero_grad(set_to_none=True)  # of the last update before; no optimiser clears it from now on

    def trainable(self, task: int, above: Sequence[dict[str, Any]]) -> Mapping[str, Trainable]:
        """Optimisers of a settled network. That above a frozen part is a new one: moments are not handed on to it.

        Args:
            above: parameter groups of what lies above the cut.
        """
        if self.frozen(task):
            return {"upper": Trainable(above)}
        below: dict[str, Any] = {"params": list(self.module.parameters()), "scale": self._learning_rate}
        return {"network": Trainable([below, *above] if below["params"] else above)}

    def hold_statistics(self, task: int) -> None:
        """To be called after networks have been switched to training mode."""
        if self.settled(task):
            self.module.eval()

    # -- activations -------------------------------------------------------------------------------------------

    def at_cut(self, batch: Batch, task: int) -> Batch:
        """Activations in place of images, as a task learns them."""
        with torch.no_grad() if self.frozen(task) else nullcontext():
            return replace(batch, image=no_pixels(len(batch)), x=self.module(batch.x))

    def activations(self, data: TaskData, batch_size: int = LATENT_BATCH) -> Rows:
        """Of all rows of a task, in stream order, un-augmented and in evaluation mode."""
        batches = list(data.batches(batch_size))
        x = torch.cat([self.of(batch.x) for batch in batches])
        y, task, replayed = ([getattr(batch, name) for batch in batches] for name in ("y", "task", "replayed"))
        return Rows(x, torch.cat(y), torch.cat(task), torch.cat(replayed))

    def of(self, x: Tensor) -> Tensor:
        """Activations of images, in evaluation mode and without gradient."""
        with frozen_statistics(self.module), torch.no_grad():
            activations: Tensor = self.module(x)
        return activations


def no_pixels(rows: int) -> Tensor:
    """The images of rows that are activations."""
    return torch.empty(rows, 0, dtype=torch.uint8)
