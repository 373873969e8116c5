"""Training rows of each task that are not learned, and judge while the task is (``training.held_out``)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from raycl.streams.randomness import random_state
from raycl.streams.task import Layout, Part, SplitName, TaskSource


@dataclass(frozen=True)
class HeldOut(TaskSource):
    """The same stream with fewer training rows. What is scored is the same, and so is the layout.

    Attributes:
        share: of every class of a task that is held out, at least one row, and at most all but one.
        seed: a class of the same rows is cut alike in every task.
    """

    source: TaskSource
    share: float
    seed: int

    @property
    def layout(self) -> Layout:
        return self.source.layout

    def part(self, task: int, split: SplitName) -> Part:
        part = self.source.part(task, split)
        return self._chosen(part, ~self._held(part)) if split == "train" else part

    def prefetch(self, task: int, split: SplitName) -> None:
        self.source.prefetch(task, split)

    @property
    def judges(self) -> Judges:
        """The rows that are held out, in place of every split."""
        return Judges(self)

    def held(self, task: int) -> Part:
        """The rows of a task that are not learned."""
        part = self.source.part(task, "train")
        return self._chosen(part, self._held(part))

    def _held(self, part: Part) -> np.ndarray:
        """bool ``[n]``."""
        held = np.zeros(len(part), dtype=bool)
        for label in np.unique(part.labels):
            members = np.flatnonzero(part.labels == label)
            members = members[np.argsort(part.rows[members], kind="stable")]
            count = min(max(1, round(self.share * len(members))), len(members) - 1)
            held[random_state(self.seed, "held_out").permutation(members)[:count]] = True
        return held

    def _chosen(self, part: Part, rows: np.ndarray) -> Part:
        return replace(part, rows=part.rows[rows], labels=part.labels[rows])


@dataclass(frozen=True)
class Judges(TaskSource):
    """What a stream holds out, for an evaluator to read as a split."""

    source: HeldOut

    @property
    def layout(self) -> Layout:
        return self.source.layout

    def part(self, task: int, split: SplitName) -> Part:
        return self.source.held(task)

    def prefetch(self, task: int, split: SplitName) -> None:
        """Parts are read once, and stay."""
