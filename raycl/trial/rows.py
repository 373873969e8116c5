"""The rows that a trial learns: of the stream, of the replay memory, or made by its strategy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from raycl.memory.buffer import ReplayBuffer, Table, everything
from raycl.strategies.phases import Rows, Source
from raycl.streams.scenario import Scenario
from raycl.streams.task import Batch, TaskSource
from raycl.trial.loading import MadeSegment, Pixels, RowPool, Segment, part_segment, table_segment


class TrainingRows:
    """Gathers what a phase asks for.

    Args:
        memory: None for methods without one.
        hidden: whether nobody is told where a task ends; all rows are then of task 0.
    """

    def __init__(
        self,
        source: TaskSource,
        scenario: Scenario,
        pixels: Pixels,
        memory: ReplayBuffer | None,
        device: torch.device,
        hidden: bool,
    ) -> None:
        self._source = source
        self._scenario = scenario
        self._pixels = pixels
        self._memory = memory
        self._device = device
        self._hidden = hidden

    def pool(self, source: Source | Rows, task: int) -> tuple[RowPool, int]:
        """The rows of a source, and how many of them (the first ones) do not come from the memory."""
        if isinstance(source, Rows):
            return RowPool([MadeSegment(source)], self._pixels), int((~source.replayed).sum())
        tasks = range(self._scenario.num_tasks) if source & Source.ALL else range(task + 1)
        segments = [self._part(index) for index in (tasks if source & (Source.SEEN | Source.ALL) else ())]
        if source & Source.CURRENT:
            segments.append(self._part(task))
        fresh = sum(len(segment) for segment in segments)
        if source & Source.MEMORY and self._memory is not None and len(self._memory):
            segments.append(table_segment(everything(self._memory), self._device))
        return RowPool(segments, self._pixels), fresh

    def _part(self, task: int) -> Segment:
        part = self._source.part(task, "train")
        y = self._scenario.labels(torch.from_numpy(part.labels).long(), task)
        return part_segment(part, y, 0 if self._hidden else task, self._device)


@dataclass
class Work:
    """Updates done and rows processed since the task began."""

    updates: int = 0
    examples: int = 0

    def count(self, updates: int, examples: int) -> None:
        self.updates += updates
        self.examples += examples

    def reset(self) -> None:
        """A task begins."""
        self.updates = self.examples = 0


class CurrentData:
    """The current task's training rows, as :class:`raycl.strategies.context.TaskData`; passes are counted."""

    def __init__(self, pool: RowPool, generator: torch.Generator, work: Work) -> None:
        self._pool = pool
        self._generator = generator
        self._work = work

    def __len__(self) -> int:
        return len(self._pool)

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        index = torch.arange(len(self))
        if limit is not None and limit < len(self):
            index = torch.randperm(len(self), generator=self._generator)[:limit].sort().values
        self._work.count(0, len(index))
        return self._pool.batches(index, batch_size, augment=False)

    def counts(self) -> dict[int, int]:
        units, counts = self._pool.labels().unique(return_counts=True)
        return dict(zip(units.tolist(), counts.tolist(), strict=True))

    def table(self) -> Table:
        images: list[Tensor] = []
        tasks: list[Tensor] = []
        for batch in self._pool.batches(torch.arange(len(self)), 4096, augment=False):
            images.append(batch.image)
            tasks.append(batch.task)
        return {"image": torch.cat(images), "label": self._pool.labels(), "task": torch.cat(tasks)}
