"""A method whose trials take a given time and no CPU, so that what a sweep adds to them is all that is measured.

It learns one update a task by replay and sleeps for the rest. Given to ``raycl run`` by ``--import``.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

from pydantic import Field

import raycl
from raycl.strategies.base import TaskData
from raycl.strategies.replay import Replay, ReplayConfig


class WaitingConfig(ReplayConfig):
    """What is searched does nothing."""

    seconds: float = Field(1.0, ge=0, le=3600, description="of a trial, all its tasks together")
    first: float = Field(0.5, ge=0, le=1, description="searched, and without effect")
    second: float = Field(0.5, ge=0, le=1, description="searched, and without effect")
    third: int = Field(1, ge=0, le=1000, description="searched, and without effect")


@raycl.strategy("waiting")
class Waiting(Replay):
    """Replay that sleeps before each task."""

    Config: ClassVar[Any] = WaitingConfig
    config: WaitingConfig

    def begin_task(self, task: int, data: TaskData) -> None:
        super().begin_task(task, data)
        time.sleep(self.config.seconds / self.context.scenario.num_tasks)
