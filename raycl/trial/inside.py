"""Measurement while a task is learned: accuracies every so many updates, and of each batch before it is learned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from raycl.matrix import Online, Points
from raycl.spec.evaluation import EvaluationConfig
from raycl.strategies.base import Position, Strategy
from raycl.streams.task import Batch
from raycl.trial.evaluator import Evaluator


class InsideTask:
    """Measures while one task is learned, and changes nothing in what is learned.

    Args:
        task: those that are followed are the tasks that the evaluator would measure after it, future ones left out.
        unseen: entered while something is measured, so that nobody counts or times it.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        strategy: Strategy,
        options: EvaluationConfig,
        task: int,
        unseen: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._evaluator = evaluator
        self._strategy = strategy
        self._options = options.inside
        self._online = options.online
        self._task = task
        self._unseen = unseen
        self._followed: list[int] = []
        self._batches: list[tuple[int, Batch]] = []  # kept, as every point is of the same examples
        if options.inside is not None:
            self._followed = evaluator.followed(task)
            self._batches = list(evaluator.batches(strategy, self._followed, options.inside.examples))
        self._updates = 0
        self._points: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._first_phase = ""
        self._predicted: list[tuple[int, int]] = []

    def incoming(self, batch: Batch, at: Position) -> None:
        """Before an update: the point before the first one; and rows that come for the first time are predicted."""
        if self._options is not None and self._updates == 0:
            self._measure()
        if self._online:
            self._predict(batch, at)

    def updated(self) -> None:
        """After an update."""
        self._updates += 1
        if self._options is not None and self._updates % self._options.updates == 0:
            self._measure()

    def ended(self) -> tuple[Points | None, Online | None]:
        """After the task, with what the method has made of it since its last update."""
        if self._options is not None:
            self._measure()
        return self._all_points(), self._all_predicted()

    def _measure(self) -> None:
        with self._unseen():
            counts = self._evaluator.count(self._strategy, self._batches, self._task)
            self._strategy.train(True)
        self._points[self._updates] = counts

    def _all_points(self) -> Points | None:
        if not self._points:
            return None
        tasks = np.array(self._followed, dtype=np.int64)
        correct = np.stack([correct[tasks] for correct, _ in self._points.values()])
        total = next(iter(self._points.values()))[1][tasks]
        return Points(np.array(list(self._points), dtype=np.int64), tasks, correct, total)

    def _predict(self, batch: Batch, at: Position) -> None:
        """Ghunaim et al. 2023: each row once, from the first phase that brings new ones, as it is, not augmented.

        Rows that a method made itself, such as cached features, have no pixels to predict from.
        """
        fresh = ~batch.replayed
        if not batch.image.numel():
            return
        if at.epoch:
            if at.late is None:
                return
            fresh &= at.late.to(fresh.device)
        self._first_phase = self._first_phase or at.phase
        if at.phase != self._first_phase or not fresh.any():
            return
        with self._unseen():
            self._predicted.append(self._evaluator.predict(self._strategy, batch[fresh], self._task))
            self._strategy.train(True)

    def _all_predicted(self) -> Online | None:
        if not self._predicted:
            return None
        correct, total = np.array(self._predicted).sum(axis=0).tolist()
        return Online(correct, total)
