"""What a tracker is: something that mirrors a sweep's trials as they end. Others come through entry points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from raycl.registry import Registry
from raycl.results.outcomes import Record
from raycl.results.store import ResultsFolder
from raycl.spec.sweep import SweepSpec


class Tracker(Protocol):
    """Is told of trials in a thread of its own; what it raises or how long it takes never reaches the sweep.

    Attributes:
        name: what it is called in warnings.
        remedy: what makes up for trials that it was never told of; may be empty.
    """

    name: str
    remedy: str

    def add(self, record: Record) -> None:
        """Mirror a trial that has ended."""
        ...

    def finish(self) -> None:
        """Mirror what is known once the run has ended."""
        ...


TRACKERS: Registry[Callable[[ResultsFolder, SweepSpec], Tracker]] = Registry(
    "tracker",
    "raycl.trackers",
    {
        "optuna": "raycl.results.trackers.optuna:StudyMirror",
        "mlflow": "raycl.results.trackers.mlflow:MLflowMirror",
    },
)
