"""Sequence: data sets, or slices of their classes, one after another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from raycl.errors import DataError, nearest
from raycl.spec.options import STREAM_HELP, StreamConfig
from raycl.streams.registry import DATASETS
from raycl.streams.stream import Stream, TaskClasses

SLICE = re.compile(r"(?P<dataset>.+)\[(?P<start>\d+):(?P<stop>\d+)\]")


class SequenceConfig(StreamConfig):
    """Options of the sequence stream."""

    name: Literal["sequence"] = Field(description=STREAM_HELP)
    parts: tuple[str, ...] = Field(
        min_length=1,
        max_length=1000,
        description="one task each: a data set, or classes start to stop - 1 of one: [cifar10, 'cifar100[0:10]']",
    )
    dataset: str = Field("", description="follows from parts")
    tasks: int = Field(0, ge=0, le=1000, description="follows from parts")

    @model_validator(mode="after")
    def _follow_parts(self) -> SequenceConfig:
        names = DATASETS.names()
        for part in self.parts:
            dataset = _split(part)[0]
            if not dataset or set("[]") & set(dataset):
                raise ValueError(f"write a part as NAME or NAME[start:stop] (got {part!r})")
            if dataset not in DATASETS:
                raise ValueError(f"unknown data set {dataset!r}{nearest(dataset, names)} (known: {', '.join(names)})")
        first = _split(self.parts[0])[0]
        if self.tasks not in (0, len(self.parts)) or self.dataset not in ("", first):
            raise ValueError(f"tasks ({len(self.parts)}) and dataset ({first!r}) follow from parts; leave them out")
        object.__setattr__(self, "tasks", len(self.parts))
        object.__setattr__(self, "dataset", first)
        return self


def _split(part: str) -> tuple[str, slice]:
    """``"cifar100[0:10]"`` -> ``("cifar100", slice(0, 10))``."""
    match = SLICE.fullmatch(part)
    if match is None:
        return part, slice(None)
    return match["dataset"], slice(int(match["start"]), int(match["stop"]))


class Sequence(Stream):
    """Zenke, Poole and Ganguli 2017: all of CIFAR-10, then slices of ten classes of CIFAR-100, by class id.

    Images of several shapes are brought to one (:meth:`raycl.streams.datasets.Images.fitted`).
    """

    Config: ClassVar[type[StreamConfig]] = SequenceConfig
    config: SequenceConfig

    def datasets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_split(part)[0] for part in self.config.parts))

    def tasks(self, num_classes: Mapping[str, int]) -> tuple[TaskClasses, ...]:
        owner: dict[tuple[str, int], str] = {}
        return tuple(self._task(part, num_classes, owner) for part in self.config.parts)

    def _task(self, part: str, num_classes: Mapping[str, int], owner: dict[tuple[str, int], str]) -> TaskClasses:
        dataset, chosen = _split(part)
        known = range(num_classes[dataset])
        classes = known[chosen]
        if not classes or (chosen.stop or 0) > len(known):
            raise DataError(f"stream.parts: {dataset!r} has the classes 0..{len(known) - 1} (got {part!r})")
        for label in classes:
            if (dataset, label) in owner:
                raise DataError(
                    f"stream.parts: a class may stand in one part only (got class {label} of {dataset!r} in "
                    f"{owner[dataset, label]!r} and again in {part!r}); make the slices disjoint"
                )
            owner[dataset, label] = part
        return TaskClasses(dataset, tuple(classes))
