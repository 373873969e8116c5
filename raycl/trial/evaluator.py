"""Measures a strategy on every task: counts of correct predictions, in large batches."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from raycl.spec.sweep_options import EvaluationConfig
from raycl.strategies.base import Strategy
from raycl.streams.scenario import Scenario
from raycl.streams.task import SplitName, TaskSource
from raycl.trial.loading import Pixels, RowPool, part_segment

BATCH_SIZE = 1000
CACHED_TASKS = 32
"""Tasks whose evaluation rows are kept at hand; others are fetched again."""


class Evaluator:
    """Evaluates one strategy on one split of a stream.

    Args:
        split: ``validation`` during a search, ``test`` in the final phase.
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
        boundaries_hidden: bool = False,
    ) -> None:
        self._source = source
        self._split: SplitName = split
        self._scenario = scenario
        self._pixels = pixels
        self._options = options
        self._device = device
        self._hidden_policy: Literal["seen", "all"] = "all" if boundaries_hidden else "seen"
        self._pools: dict[int, RowPool] = {}

    def measure(self, strategy: Strategy, learned: int) -> tuple[np.ndarray, np.ndarray]:
        """Correct and total counts, int64 ``[num_tasks]`` each, after tasks 0..learned (-1: none).

        A total of 0 marks a null cell: no output units for that task, or a task the strategy cannot answer for yet.
        """
        correct = np.zeros(self._scenario.num_tasks, dtype=np.int64)
        total = np.zeros(self._scenario.num_tasks, dtype=np.int64)
        strategy.train(False)
        with torch.no_grad():
            for task in range(self._scenario.num_tasks):
                if self._answerable(strategy, task, learned):
                    correct[task], total[task] = self._count(strategy, task, learned)
        return correct, total

    def _answerable(self, strategy: Strategy, task: int, learned: int) -> bool:
        if task <= learned:
            return True
        wanted = self._options.future_tasks and strategy.zero_shot
        return wanted and self._scenario.answerable(task, learned)

    def _count(self, strategy: Strategy, task: int, learned: int) -> tuple[int, int]:
        scenario, pool = self._scenario, self._pool(task)
        given = task if scenario.task_given else None
        policy: Literal["own", "seen", "all"] = "own" if scenario.task_given else self._hidden_policy
        hits = torch.zeros((), dtype=torch.int64, device=self._device)
        for batch in pool.batches(torch.arange(len(pool)), BATCH_SIZE, augment=False):
            logits = strategy.predict(batch.x, given)
            mask = scenario.mask(batch.task, policy, max(learned, 0))
            units = logits.masked_fill(~mask, float("-inf")).argmax(1)
            hits += (scenario.answers(units) == scenario.answers(batch.y)).sum()
        return int(hits), len(pool)

    def _pool(self, task: int) -> RowPool:
        """The rows of a task; the first ones stay, as tasks are visited in turn, the others are fetched ahead."""
        if task in self._pools:
            return self._pools[task]
        part = self._source.part(task, self._split)
        if CACHED_TASKS <= task + 1 < self._scenario.num_tasks:
            self._source.prefetch(task + 1, self._split)
        y = self._scenario.labels(torch.from_numpy(part.labels.astype(np.int64)), task)
        pool = RowPool([part_segment(part, y, task, self._device, self._options.max_examples)], self._pixels)
        if task < CACHED_TASKS:
            self._pools[task] = pool
        return pool
