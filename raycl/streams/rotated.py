"""Rotated: every task holds all classes, with every image turned by the task's angle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from raycl.spec.options import STREAM_HELP, KnownAtTest, StreamConfig
from raycl.streams.randomness import random_state
from raycl.streams.stream import Stream, TaskClasses, every_class
from raycl.streams.task import Recipe

Degrees = Annotated[float, Field(ge=-360, le=360)]


class RotatedConfig(StreamConfig):
    """Options of the rotated stream."""

    encodable = False

    name: Literal["rotated"] = Field(description=STREAM_HELP)
    scenario: KnownAtTest = "domain"
    angles: Literal["even", "random"] | Annotated[tuple[Degrees, ...], Field(max_length=10_000)] = Field(
        "even",
        description="degrees: evenly from 0 to max_angle; one drawn from each of as many equal intervals; or a list",
    )
    max_angle: Annotated[float, Field(gt=0, le=360)] = Field(180.0, description="degrees; of even and random angles")

    @model_validator(mode="after")
    def _one_angle_per_task(self) -> RotatedConfig:
        if isinstance(self.angles, tuple) and len(self.angles) != self.tasks:
            raise ValueError(f"angles lists {len(self.angles)} angles for {self.tasks} tasks; list one per task")
        return self

    @model_validator(mode="after")
    def _no_angle_twice(self) -> RotatedConfig:
        """An angle of 360 degrees is one of 0: the images are equal byte by byte."""
        if self.angles == "even" and self.max_angle == 360 and self.tasks > 1:
            most = 360 * (self.tasks - 1) / self.tasks
            raise ValueError(f"max_angle 360 turns the last task back to the first; take at most {most:g}")
        if isinstance(self.angles, tuple) and len({angle % 360 for angle in self.angles}) < len(self.angles):
            raise ValueError(f"angles must differ, 360 degrees being 0 (got {list(self.angles)}); list others")
        return self


class Rotated(Stream):
    """Lopez-Paz and Ranzato 2017; bilinear, and train, validation and test are turned alike.

    Their random angles came from a generator that was never seeded; here the stream's seed draws them.
    """

    Config: ClassVar[type[StreamConfig]] = RotatedConfig
    config: RotatedConfig

    def tasks(self, num_classes: Mapping[str, int]) -> tuple[TaskClasses, ...]:
        return every_class(self.config, num_classes)

    def recipe(self, task: int, height: int, width: int) -> Recipe:
        return Recipe(pad=self.config.pad, angle=self.angle(task))

    def angle(self, task: int) -> float:
        """Degrees counter-clockwise."""
        config = self.config
        if config.angles == "even":
            return float(np.linspace(0, config.max_angle, config.tasks)[task])
        if config.angles == "random":
            share = random_state(self.seed, "rotation", task).uniform()
            return float(config.max_angle * (task + share) / config.tasks)
        return float(config.angles[task])
