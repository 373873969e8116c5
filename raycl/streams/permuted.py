"""Permuted: every task holds all classes, with the pixels of every image in a fixed random order of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from raycl.spec.options import STREAM_HELP, KnownAtTest, StreamConfig, Tasks
from raycl.streams.randomness import random_state
from raycl.streams.stream import Stream, TaskClasses, every_class
from raycl.streams.task import Recipe


class PermutedConfig(StreamConfig):
    """Options of the permuted stream."""

    encodable = False

    name: Literal["permuted"] = Field(description=STREAM_HELP)
    scenario: KnownAtTest = "domain"
    tasks: Tasks = 10
    first_task: Literal["permuted", "identity"] = Field(
        "permuted", description="whether the first task's pixels are permuted too"
    )


class Permuted(Stream):
    """Goodfellow et al. 2013. Padding pixels are permuted too; train, validation and test share the permutation."""

    Config: ClassVar[type[StreamConfig]] = PermutedConfig
    config: PermutedConfig

    def tasks(self, num_classes: Mapping[str, int]) -> tuple[TaskClasses, ...]:
        return every_class(self.config, num_classes)

    def recipe(self, task: int, height: int, width: int) -> Recipe:
        pad = self.config.pad
        if task == 0 and self.config.first_task == "identity":
            return Recipe(pad=pad)
        pixels = (height + 2 * pad) * (width + 2 * pad)
        return Recipe(pad=pad, permutation=random_state(self.seed, "permutation", task).permutation(pixels))
