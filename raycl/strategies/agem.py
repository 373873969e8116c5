"""A-GEM, averaged gradient episodic memory: no update may raise, to first order, the mean loss on old tasks' memory.

Chaudhry, Ranzato, Rohrbach and Elhoseiny, "Efficient lifelong learning with A-GEM", ICLR 2019 (arXiv 1812.00420),
equations 10 and 11 and algorithm 1. With g the gradient of the new rows and g_ref that of a random batch from the
memory of all earlier tasks,

    g~ = g - (g . g_ref / g_ref . g_ref) g_ref    where g . g_ref < 0, else g.

Where GEM has one constraint for each old task, this is one for their mean, at the cost of one more batch whatever their
number; a single old task may still lose. As in GEM the guarantee is about the gradient: plain SGD is the honest choice.

Departures:
- Which rows stay is the sweep's ``memory`` block. The default is a reservoir, with ``unit: task`` the uniform draw from
  every task's rows of the paper; as rows of the current task never count, it makes no difference that they are drawn
  while the task is learned, not after it.
- Memory gradients are taken in evaluation mode, so that they move no running statistics.
- The batch comes without replacement, and is all of the memory where that holds fewer rows. Its size is
  ``reference_batch_size``; ``memory.batch_size``, ``combine`` and ``mix`` do not apply.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raycl.learning.projection import project_one
from raycl.models.network import frozen_statistics
from raycl.spec.options import Count
from raycl.strategies.base import Context, Position, StrategyConfig
from raycl.strategies.constrained import Constrained, flat
from raycl.streams.task import Batch


class AGEMConfig(StrategyConfig):
    """How many rows speak for the old tasks."""

    search_space: ClassVar[dict[str, Any]] = {"reference_batch_size": {"choice": [64, 256, 1024]}}

    reference_batch_size: Count = Field(256, description="rows of earlier tasks drawn for every update")


class AGEM(Constrained[Tensor]):
    """Project each gradient so that a batch of old rows does not object."""

    Config = AGEMConfig
    acts_from = {**Constrained.acts_from, "reference_batch_size": 2}
    between_tasks = ("reference_batch_size",)
    paper: ClassVar[str] = "Chaudhry et al. 2019, Efficient lifelong learning with A-GEM (arXiv 1812.00420)"

    config: AGEMConfig

    def __init__(self, config: AGEMConfig, context: Context) -> None:
        super().__init__(config, context)
        self._reference: Batch | None = None

    def draw(self, batch: Batch, at: Position) -> Batch:
        """Take the old rows of this update, and ask for those of the next."""
        self._reference = None
        if at.task > 0:
            rows = at.part_of(self.replayed(self.memory.sample(self.config.reference_batch_size, at.task)))
            self._reference = rows if len(rows) else None
            if not at.last:
                self.memory.request(self.config.reference_batch_size, at.task)
        return batch

    def past_gradients(self) -> Tensor | None:
        """``[1, parameters]``, of the mean loss over the rows drawn."""
        rows = self._reference
        if rows is None:
            return None
        with frozen_statistics(self.network):
            loss = self.memory_losses(self.network(rows.x), rows).mean()
        found = torch.autograd.grad(loss, self.parameters(), allow_unused=True, materialize_grads=True)
        return flat(found)[None]

    def project(self, gradient: Tensor, past: Tensor) -> Tensor:
        return project_one(gradient, past[0])
