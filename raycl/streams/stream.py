"""What a stream is: which classes of which data set each task holds, and the recipe of its images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from raycl.spec.options import StreamConfig
from raycl.streams.task import Recipe


@dataclass(frozen=True)
class TaskClasses:
    """The classes of one task.

    Attributes:
        dataset: name of the data set.
        classes: its class ids; the position in the tuple is the task-local label.
    """

    dataset: str
    classes: tuple[int, ...]


class Stream(ABC):
    """Base of every stream. It decides everything from its options and a seed, and never sees an image.

    Args:
        config: the stream's options.
        seed: of class order, permutations and angles; rows are divided by another (:mod:`raycl.streams.partition`).
    """

    Config: ClassVar[type[StreamConfig]]
    revision: ClassVar[int] = 1
    """Raised when the same options and seed would give other tasks; part of a trial's hash from 2 on."""
    repeats: ClassVar[bool] = False
    """Whether tasks may be equal, as where a stream comes back to what it has shown; refused otherwise."""

    def __init__(self, config: Any, seed: int) -> None:
        self.config = config
        self.seed = seed

    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets, each once, in the order of their first task."""
        return (self.config.dataset,)

    @abstractmethod
    def tasks(self, num_classes: Mapping[str, int]) -> tuple[TaskClasses, ...]:
        """The classes of every task.

        Args:
            num_classes: number of classes of each of :meth:`datasets`.

        Raises:
            DataError: the data set does not fit the stream.
        """

    def recipe(self, task: int, height: int, width: int) -> Recipe:
        """How the task's images come from base images of ``height`` x ``width`` pixels; built on demand."""
        return Recipe(pad=self.config.pad)


def every_class(config: StreamConfig, num_classes: Mapping[str, int]) -> tuple[TaskClasses, ...]:
    """Tasks that all hold every class of one data set, as where only the images change."""
    task = TaskClasses(config.dataset, tuple(range(num_classes[config.dataset])))
    return (task,) * config.tasks
