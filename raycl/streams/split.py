"""Split: the tasks divide the classes of one data set."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from raycl.errors import DataError
from raycl.spec.options import STREAM_HELP, Count, CountFromZero, StreamConfig
from raycl.streams.randomness import random_state
from raycl.streams.stream import Stream, TaskClasses


class SplitConfig(StreamConfig):
    """Options of the split stream."""

    name: Literal["split"] = Field(description=STREAM_HELP)
    class_order: Literal["shuffled", "fixed"] | Annotated[tuple[CountFromZero, ...], Field(max_length=100_000)] = Field(
        "shuffled", description="order in which classes appear: drawn from the seed, by class id, or these ids"
    )
    classes_per_task: Count | None = Field(
        None, description="default: all classes, evenly; with it, some classes may be left out"
    )
    first_task: Count | None = Field(None, description="classes of the first task, where it differs from the others")

    @model_validator(mode="after")
    def _distinct(self) -> SplitConfig:
        if isinstance(self.class_order, tuple) and len(set(self.class_order)) != len(self.class_order):
            raise ValueError("class_order names a class twice")
        return self


class Split(Stream):
    """Tasks of disjoint classes: Split MNIST, Split CIFAR."""

    Config: ClassVar[type[StreamConfig]] = SplitConfig
    config: SplitConfig

    def tasks(self, num_classes: Mapping[str, int]) -> tuple[TaskClasses, ...]:
        order = self._order(num_classes[self.config.dataset])
        ends = accumulate(self._sizes(len(order)), initial=0)
        return tuple(TaskClasses(self.config.dataset, order[start:stop]) for start, stop in pairwise(ends))

    def _order(self, classes: int) -> tuple[int, ...]:
        order = self.config.class_order
        if order == "fixed":
            return tuple(range(classes))
        if order == "shuffled":
            return tuple(random_state(self.seed, "class_order").permutation(classes).tolist())
        unknown = [label for label in order if label >= classes]
        if unknown:
            raise DataError(
                f"stream.class_order names classes that {self.config.dataset!r} does not have (got {unknown}); "
                f"its classes are 0..{classes - 1}"
            )
        return tuple(label for label in order if isinstance(label, int))

    def _sizes(self, classes: int) -> list[int]:
        """Classes of each task."""
        config = self.config
        per_task = config.classes_per_task
        if config.tasks == 1:
            sizes = [config.first_task or per_task or classes]
        else:
            first = config.first_task or per_task
            rest = config.tasks - 1
            if per_task is None and (classes - (first or 0)) % (config.tasks if first is None else rest):
                raise DataError(
                    f"stream.tasks: {classes} classes of {config.dataset!r} do not divide evenly into {config.tasks} "
                    f"tasks{f' after a first task of {first}' if first else ''}; choose another number of tasks, "
                    "or set stream.classes_per_task and stream.first_task"
                )
            per_task = per_task or ((classes - first) // rest if first else classes // config.tasks)
            sizes = [first or per_task] + [per_task] * rest
        if not all(sizes) or sum(sizes) > classes:
            raise DataError(
                f"stream.tasks: tasks of {sizes} classes need {sum(sizes)} classes, at least one each "
                f"(got {classes} in {config.dataset!r}); choose fewer or smaller tasks"
            )
        return sizes
