"""A stream without its first tasks: what is left for a fresh model once they have chosen its hyperparameters."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

from raycl.streams.task import Layout, Part, SplitName, TaskSource


def later_tasks(source: TaskSource, skipped: int) -> TaskSource:
    """The same source where nothing is skipped."""
    return LaterTasks(source, skipped) if skipped else source


@dataclass(frozen=True)
class LaterTasks(TaskSource):
    """Task 0 of it is task ``skipped`` of the source; the classes of earlier tasks are in no head."""

    source: TaskSource
    skipped: int

    @cached_property
    def layout(self) -> Layout:
        whole = self.source.layout
        name = hashlib.sha256(f"{whole.split_hash}/{self.skipped}".encode()).hexdigest()[: len(whole.split_hash)]
        return replace(whole, classes=whole.classes[self.skipped :], split_hash=name)

    def part(self, task: int, split: SplitName) -> Part:
        return self.source.part(task + self.skipped, split)

    def prefetch(self, task: int, split: SplitName) -> None:
        self.source.prefetch(task + self.skipped, split)
