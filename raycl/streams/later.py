"""A stream without its first tasks: what is left for a fresh model once they have chosen its hyperparameters."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

from raycl.streams import moments
from raycl.streams.task import Layout, Part, SplitName, TaskSource


def later_tasks(source: TaskSource, skipped: int, normalize: str) -> TaskSource:
    """The same source where nothing is skipped.

    Args:
        normalize: ``stream.normalize``.
    """
    return LaterTasks(source, skipped, normalize == "mean_std_first_task") if skipped else source


@dataclass(frozen=True)
class LaterTasks(TaskSource):
    """Task 0 of it is task ``skipped`` of the source; the classes of earlier tasks are in no head.

    Attributes:
        of_first_task: whether mean and deviation are those of the first task, which is the first one that is left.
    """

    source: TaskSource
    skipped: int
    of_first_task: bool = False

    @cached_property
    def layout(self) -> Layout:
        whole = self.source.layout
        name = hashlib.sha256(f"{whole.split_hash}/{self.skipped}".encode()).hexdigest()[: len(whole.split_hash)]
        mean, std = moments.of_part(self.part(0, "train")) if self.of_first_task else (whole.mean, whole.std)
        return replace(whole, classes=whole.classes[self.skipped :], split_hash=name, mean=mean, std=std)

    def part(self, task: int, split: SplitName) -> Part:
        return self.source.part(task + self.skipped, split)

    def prefetch(self, task: int, split: SplitName) -> None:
        self.source.prefetch(task + self.skipped, split)
