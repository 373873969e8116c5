"""ExStream: a stream is clustered as it passes, and the network learns from the clusters' centres alone.

Hayes, Cahill and Kanan, "Memory efficient experience replay for streaming learning", ICRA 2019 (arXiv 1809.05922),
section IV. Each class has at most b prototypes, each with the number c of examples behind it. Where they are b already,
the two closest ones u and v of the class make room for a new example, which is no candidate itself:

    w = (c_u u + c_v v) / (c_u + c_v),   c_w = c_u + c_v

After each example the network learns one epoch over the whole memory (``memory.batch_size`` rows an update). With
``memory.unit: class`` the capacity is b; with ``total`` all classes share one buffer, and the class with most
prototypes gives way. It is online clustering, not a choice of examples, so ``memory.selection`` does not apply.

Rows are meant to be features of a frozen backbone (``stream.encode``), under a small network such as ``mlp``. Means of
pixels work as well, as blurred images: rows are averaged as they are stored, as floats, and normalised when they are
replayed. The stream is seen once, whatever ``training.epochs`` says.

As in the authors' code a memory of one row is not rehearsed.

Departures:
- ``rehearse_every`` examples may pass between two epochs over the memory, for speed.
- A class with room for one prototype keeps its running mean; the paper has no pair to merge there.
- The updates of an epoch are of equal size, within one row, so that none is left with a single row, from which batch
  normalisation cannot learn; the authors fill the last one up with rows that the epoch has seen.
- Features are not scaled to unit length.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from raycl.memory.buffer import everything
from raycl.memory.clusters import Clusters, rows_by_class
from raycl.spec.memory import MemoryConfig
from raycl.spec.needs import Idle, Need
from raycl.spec.options import Count
from raycl.strategies.base import Context, Epochs, Losses, Phase, Position, Strategy, StrategyConfig, total
from raycl.streams.task import Batch


class ExStreamConfig(StrategyConfig):
    """How often the memory is rehearsed; the sweep's ``memory`` block says how large it is."""

    search_space: ClassVar[dict[str, Any]] = {"rehearse_every": {"choice": [1, 2, 4, 8]}}

    rehearse_every: Count = Field(1, description="examples that pass between two epochs over the memory")


class ExStream(Strategy):
    """Cluster, and learn from the prototypes."""

    Config = ExStreamConfig
    keeps_best: ClassVar[bool] = False
    between_tasks = ("rehearse_every",)
    divisible: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "memory.selection",
            "exstream merges rows by what they hold; use auto",
            lambda at: at.memory.selection == "auto",
        ),
        Need(
            "memory.unit",
            "exstream merges rows within a class; use class or total",
            lambda at: at.memory.unit != "task",
        ),
        Need(
            "memory.capacity",
            "must be at least the number of classes; enlarge it, or set memory.unit: class",
            lambda at: at.fits_a_row_of_every_class,
        ),
        Need(
            "memory.capacity",
            "exstream keeps the distances between rows of a class, whose bytes do not grow evenly with the rows; give "
            "a number in place of auto",
            lambda at: at.memory.capacity != "auto",
        ),
        Need(
            "memory.batch_size",
            "batch norm has no statistics of one row, which batches of 2 leave over; enlarge it, or set model.norm",
            lambda at: not at.flat_batch_norm or at.replay_batch > 2,
        ),
    )
    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(("training.epochs", "training.iterations"), "the stream is seen once"),
        Idle(
            ("training.batch_size",),
            "the stream comes row by row, and memory.batch_size says how it is rehearsed",
            lambda at: at.memory.batch_size is not None,
        ),
        Idle(
            ("memory.combine", "memory.insert", "memory.mix"), "the memory alone is learned from, as the stream passes"
        ),
    )
    boundary_free: ClassVar[bool] = True
    uses_memory: ClassVar[bool] = True
    remembers = "features"
    selection: ClassVar[str] = "ring"  # fills the slots in order; from then on rows are merged
    paper: ClassVar[str] = "Hayes, Cahill and Kanan 2019, Memory efficient experience replay (arXiv 1809.05922)"

    config: ExStreamConfig

    def __init__(self, config: ExStreamConfig, context: Context) -> None:
        super().__init__(config, context)
        memory = context.memory_config
        self.clusters = Clusters(self.memory, memory.examples, memory.unit == "class")
        self._batch_size = memory.batch_size or context.training.batch_size
        self._waiting = 0  # examples since the last epoch over the memory

    @classmethod
    def remembered(cls, memory: MemoryConfig, selection: str, offered: Sequence[Mapping[int, int]]) -> tuple[int, int]:
        """The distances within each class, float32, beside the rows."""
        seen = sum(map(Counter, offered), Counter())
        held = rows_by_class(memory.examples, memory.unit == "class", seen)
        return sum(held), sum(4 * rows**2 for rows in held)

    def phases(self, task: int) -> Sequence[Phase]:
        return (Phase("stream", Epochs(1), step=self._observe),)

    def _observe(self, batch: Batch, at: Position) -> Losses:
        """Take the rows in one by one, each followed by an epoch over the memory where one is due."""
        losses: Losses = {}
        rows = {"image": batch.image.float().cpu(), "label": batch.y.cpu(), "task": batch.task.cpu()}
        for row in range(len(batch)):
            self.clusters.insert({name: column[row : row + 1] for name, column in rows.items()})
            self._waiting += 1
            if self._waiting == self.config.rehearse_every:
                losses, self._waiting = self._rehearse(), 0
        return losses

    def _rehearse(self) -> Losses:
        """One epoch over the whole memory. Returns the losses of its last update."""
        context, memory = self.context, self.replayed(everything(self.memory))
        losses: Losses = {}
        if len(memory) < 2:
            return losses
        order = torch.randperm(len(memory), generator=context.generator("rehearsal")).to(context.device)
        parts = order.tensor_split(math.ceil(len(memory) / self._batch_size))
        for rows in parts:
            losses = self.loss(memory[rows])
            context.optimizers.zero_grad()
            total(losses).backward()
            context.optimizers.step()
        context.count_work(len(parts), len(memory))
        return {name: value.detach() for name, value in losses.items()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "clusters": self.clusters.state_dict(), "waiting": self._waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.clusters.load_state_dict(state["clusters"])
        self._waiting = state["waiting"]
