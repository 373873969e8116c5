"""Latent replay: the memory keeps activations of a layer, and what lies below that layer stays as it is.

Pellegrini, Graffieti, Lomonaco and Maltoni, "Latent replay for real-time continual learning", IROS 2020 (arXiv
1912.01100). New images go through the lower part up to ``layer``; stored activations are joined to them there, and the
upper part learns from both. Of the B rows of an update, round(B N / (N + M)) are new, with N new rows in the task and
M rows in the memory (``memory.mix: size``); ``equal`` takes half and half, ``paired`` a batch of each. After the i-th
task h = M / i of its activations replace as many random ones (algorithm 2, ``memory.selection: random``).

After the first task, or from the start where the model has pretrained ``weights``, the lower part is frozen: without
gradients, outside the optimiser and in evaluation mode, so that stored activations are those that it would compute
anew. With ``lower_learning_rate`` above 0 it goes on to learn from new rows, slowly, and stored activations age; its
running statistics stay in any case.

Departures:
- One growing softmax head, learned by cross-entropy: neither the consolidated head nor the penalty of AR1.
- Activations of un-augmented rows are stored, in evaluation mode, when a task ends; those of the paper are taken on the
  way, in the first epoch. Of a frozen part without augmentation these are the same numbers.
- Replayed rows are drawn at random for each update, not dealt out once per epoch.
- ``memory.combine`` and ``insert`` do not apply: the loss is one mean over all rows of an update.

A frozen lower part sees each row once a task: its activations are kept for the task's updates, unless the stream
augments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from raycl.memory.buffer import Table
from raycl.models.cut import cut
from raycl.spec.acting import KEPT
from raycl.spec.needs import Idle
from raycl.spec.options import Fraction
from raycl.strategies.base import (
    Context,
    Losses,
    Phase,
    Position,
    Rows,
    Source,
    Strategy,
    StrategyConfig,
    TaskData,
    Trainable,
)
from raycl.strategies.lower_part import FREEZE, Freeze, LowerPart, no_pixels, settled_from
from raycl.strategies.rehearsal import REHEARSES
from raycl.streams.task import Batch


class LatentReplayConfig(StrategyConfig):
    """Where the network is cut, and what becomes of its lower part."""

    search_space: ClassVar[dict[str, Any]] = {"lower_learning_rate": {"choice": [0.0, 0.01, 0.1]}}

    layer: str | None = Field(
        None,
        description="the backbone's module whose output is stored, by name (a wrong one lists them); default: the last",
    )
    freeze: Freeze = Field("after_first_task", description=FREEZE)
    lower_learning_rate: Fraction = Field(
        0.0, description="factor on the learning rate of what lies below, once it is frozen; 0 keeps it as it is"
    )


class LatentReplay(Strategy):
    """Replay activations."""

    Config = LatentReplayConfig
    acts_from = dict.fromkeys((*KEPT, "memory.mix"), 2) | {"lower_learning_rate": settled_from}
    between_tasks: ClassVar[tuple[str, ...]] = ("lower_learning_rate",)
    one_pass: ClassVar[bool] = False
    offers: ClassVar[Literal["batch", "task"]] = "task"
    ignores: ClassVar[tuple[Idle, ...]] = REHEARSES
    uses_memory: ClassVar[bool] = True
    remembers = "features"
    selection: ClassVar[str] = "random"
    paper: ClassVar[str] = "Pellegrini et al. 2020, Latent replay for real-time continual learning (arXiv 1912.01100)"

    config: LatentReplayConfig

    def __init__(self, config: LatentReplayConfig, context: Context) -> None:
        super().__init__(config, context)
        self.lower, self.upper = cut(self.network.backbone, config.layer)
        self._below = LowerPart(self.lower, config.freeze, config.lower_learning_rate)
        self._latents: Rows | None = None  # of the task, where the lower part gives the same ones every time
        self._new_size = self._replay_size = 0

    # -- growth and optimisation -------------------------------------------------------------------------------

    def grow(self, task: int) -> None:
        super().grow(task)
        self._below.begin(task)

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        return self._below.trainable(task, self._above()) if self._below.settled(task) else super().trainable(task)

    def _above(self) -> list[dict[str, Any]]:
        """Parameter groups above a settled lower part."""
        return [{"params": [*self.upper.parameters(), *self.network.head.parameters()]}]

    def train(self, mode: bool) -> None:
        super().train(mode)
        self._below.hold_statistics(self.task)

    # -- the task ----------------------------------------------------------------------------------------------

    def begin_task(self, task: int, data: TaskData) -> None:
        self._new_size, self._replay_size = self._sizes(len(data))
        if self._below.frozen(task) and not self.context.augments:
            self._latents = self._below.activations(data)

    def _sizes(self, rows: int) -> tuple[int, int]:
        """New and replayed rows of an update, in a task of so many rows."""
        config, size = self.context.memory_config, self.context.training.batch_size
        if not len(self.memory):
            return size, 0
        if config.mix == "paired":
            return size, config.batch_size or size
        share = 0.5 if config.mix == "equal" else rows / (rows + len(self.memory))
        new = max(1, min(round(size * share), size - 1))
        return new, size - new

    def phases(self, task: int) -> Sequence[Phase]:
        return (Phase("train", self.length(), self._latents or Source.CURRENT, batch_size=self._new_size),)

    def end_task(self, task: int, data: TaskData) -> None:
        latents = self._latents or self._below.activations(data)
        self.memory.add(_table(latents))
        self._latents = None

    # -- the update --------------------------------------------------------------------------------------------

    def draw(self, batch: Batch, at: Position) -> Batch:
        """New and replayed rows at the cut."""
        replayed = self._replayed(at)
        if self._latents is None:
            batch = self._below.at_cut(batch, at.task)
        return batch if replayed is None else Batch.cat([batch, replayed])

    def _replayed(self, at: Position) -> Batch | None:
        """Stored activations; the next ones are fetched while these are learned."""
        count, device = self._replay_size, self.context.device
        if not count:
            return None
        rows = self.memory.sample(count)
        if not at.last:
            self.memory.request(count)
        y, task = rows["label"].to(device), rows["task"].to(device)
        replayed = torch.ones_like(y, dtype=torch.bool)
        return at.part_of(Batch(no_pixels(len(y)), rows["image"].to(device), y, task, replayed))

    def loss(self, batch: Batch) -> Losses:
        return {"task": self.cross_entropy(self.network.head(self.upper(batch.x)), batch)}


def _table(latents: Rows) -> Table:
    """Activations as a memory takes them, in place of images."""
    return {"image": latents.x, "label": latents.y, "task": latents.task}
