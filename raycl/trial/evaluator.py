"""Measures a strategy on tasks: counts of correct predictions, in large batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raycl.memory.buffer import Table
from raycl.spec.evaluation import EvaluationConfig
from raycl.strategies.base import Strategy
from raycl.streams.scenario import Scenario
from raycl.streams.task import Batch, SplitName, TaskSource
from raycl.trial.loading import Pixels, Segment, part_segment, side_by_side, table_segment

BATCH_SIZE = 1000
KEPT_BYTES = 64_000_000
"""Of evaluation rows that are kept at hand, the first ones; others are fetched again. Base images are shared."""


class Evaluator:
    """Evaluates one strategy on one split of a stream.

    Args:
        split: ``validation`` during a search, ``test`` in the final phase.
        seed: of the samples of tasks.
        learned: so many tasks are learned in all, and the row after the last of them is measured whole; 0: all tasks.
        boundaries_hidden: whether the learner is not told which classes have come; then all units may win.
    """

    def __init__(
        self,
        source: TaskSource,
        split: SplitName,
        scenario: Scenario,
        pixels: Pixels,
        options: EvaluationConfig,
        device: torch.device,
        *,
        seed: int = 0,
        learned: int = 0,
        boundaries_hidden: bool = False,
    ) -> None:
        self._source = source
        self._split: SplitName = split
        self._scenario = scenario
        self._pixels = pixels
        self._options = options
        self._device = device
        self._seed = seed
        self._learned = learned or scenario.num_tasks
        self._hidden_policy: Literal["seen", "all"] = "all" if boundaries_hidden else "seen"
        self._kept: dict[int, Segment] = {}
        self._room = KEPT_BYTES

    def measure(self, strategy: Strategy, learned: int) -> tuple[np.ndarray, np.ndarray]:
        """Correct and total counts, int64 ``[num_tasks]`` each, after tasks 0..learned (-1: none).

        A total of 0 marks a null cell: not asked for, no output units for that task, or a task the strategy cannot
        answer for yet.
        """
        return self.count(strategy, self.batches(strategy, self.asked(strategy, learned)), learned)

    def asked(self, strategy: Strategy, learned: int) -> list[int]:
        """The tasks that are measured after tasks 0..learned."""
        options, count = self._options, self._scenario.num_tasks
        if not options.measures_row(learned, self._learned):
            return []
        future = options.measures_future(count) and strategy.zero_shot
        to_come = [task for task in range(learned + 1, count) if future and self._scenario.answerable(task, learned)]
        return [*self.followed(learned), *to_come]

    def followed(self, learned: int) -> list[int]:
        """Of tasks 0..learned, those that are measured. A smaller sample is the start of a larger one."""
        count = self._scenario.num_tasks
        wanted = self._options.sample(count)
        if wanted is None or learned == self._learned - 1 or wanted >= learned:
            return list(range(learned + 1))
        drawn = np.random.default_rng((self._seed, learned)).permutation(learned)[:wanted]
        return [*sorted(drawn.tolist()), learned]

    def count(
        self, strategy: Strategy, batches: Iterable[tuple[int, Batch]], learned: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Correct and total counts, int64 ``[num_tasks]`` each, on what :meth:`batches` gives."""
        correct = torch.zeros(self._scenario.num_tasks, dtype=torch.int64, device=self._device)
        total = torch.zeros_like(correct)
        strategy.train(False)
        with torch.no_grad():
            for task, batch in batches:
                hits = self._hits(strategy, batch, task, learned)
                correct += torch.bincount(batch.task[hits], minlength=len(correct))
                total += torch.bincount(batch.task, minlength=len(total))
        return correct.cpu().numpy(), total.cpu().numpy()

    def predict(self, strategy: Strategy, batch: Batch, task: int) -> tuple[int, int]:
        """How many rows of a batch of one task are answered rightly while it is learned, and how many there are."""
        strategy.train(False)
        with torch.no_grad():
            seen = replace(batch, x=self._pixels.normalize(batch.image))
            return int(self._hits(strategy, seen, task, task).sum()), len(batch)

    def _hits(self, strategy: Strategy, batch: Batch, task: int, learned: int) -> Tensor:
        """Which rows are answered rightly, bool ``[batch]``."""
        scenario = self._scenario
        given = task if scenario.task_given else None
        policy: Literal["own", "seen", "all"] = "own" if scenario.task_given else self._hidden_policy
        logits = strategy.predict(batch.x, given)
        mask = scenario.mask(batch.task, policy, max(learned, 0))
        units = logits.masked_fill(~mask, float("-inf")).argmax(1)
        return scenario.answers(units) == scenario.answers(batch.y)

    def batches(
        self, strategy: Strategy, tasks: Sequence[int], limit: int | None = None
    ) -> Iterator[tuple[int, Batch]]:
        """The rows of some tasks in batches, each with the task of its first row; small tasks share one where the
        answer does not depend on the task.

        Args:
            limit: at most so many examples of each task, the first ones.
        """
        shared = strategy.inference_batch == 1 and (not self._scenario.task_given or strategy.ignores_task)
        waiting: dict[int, Segment] = {}
        for task, following in zip_longest(tasks, tasks[1:]):
            segment = self._segment(task, following).first(limit)
            if not shared or len(segment) + sum(map(len, waiting.values())) > BATCH_SIZE:
                yield from self._read(waiting)
                waiting = {}
            waiting[task] = segment
        yield from self._read(waiting)

    def of_memory(self, rows: Table) -> Iterator[tuple[int, Batch]]:
        """Rows of a replay memory in batches, task by task."""
        tasks = rows["task"] if rows else torch.empty(0)
        for task in tasks.unique().tolist():
            for index in (tasks == task).nonzero().flatten().split(BATCH_SIZE):
                yield (
                    task,
                    table_segment(rows, self._device).gather(index.to(self._device), self._pixels, augment=False),
                )

    def _read(self, segments: Mapping[int, Segment]) -> Iterator[tuple[int, Batch]]:
        """Several small segments, by their tasks, as one batch; or a single one as batches."""
        if len(segments) > 1:
            yield next(iter(segments)), side_by_side(list(segments.values()), self._pixels)
            return
        for task, segment in segments.items():
            for index in torch.arange(len(segment), device=self._device).split(BATCH_SIZE):
                yield task, segment.gather(index, self._pixels, augment=False)

    def _segment(self, task: int, following: int | None) -> Segment:
        """The rows of a task; the first ones stay, as tasks are visited in turn, the others are fetched ahead."""
        if task in self._kept:
            return self._kept[task]
        part = self._source.part(task, self._split)
        y = self._scenario.labels(torch.from_numpy(part.labels.astype(np.int64)), task)
        segment = part_segment(part, y, task, self._device, self._options.max_examples)
        if segment.own_bytes <= self._room:
            self._room -= segment.own_bytes
            self._kept[task] = segment
        elif following is not None and following not in self._kept:
            self._source.prefetch(following, self._split)
        return segment
