"""Where the trials of a sweep run: what every backend has to do, and the two that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from raycl.errors import UnknownName, nearest
from raycl.results.store import ResultsFolder
from raycl.spec.sweep import SweepSpec
from raycl.sweep.data import Read
from raycl.sweep.dispatch import Dispatcher
from raycl.sweep.signals import Interruption


@dataclass(frozen=True)
class RunOptions:
    """How a sweep is run; nothing of it changes a result.

    Attributes:
        data_root: folder of the data sets; default: ``data`` in the working directory.
        address: of a Ray cluster to join; default: ``RAY_ADDRESS``, else one is started for this run.
        force: take the folder even where another driver's heartbeat is fresh.
        retry_failed: run trials again whose method failed.
        rerun_changed: run trials again whose method's code has changed since they ended; else it is told.
        max_concurrent: trials at the same time; default: the sweep's, else what fits.
        reuse: other results folders, whose finished trials are taken in place of being run.
    """

    data_root: str | None = None
    address: str | None = None
    force: bool = False
    retry_failed: bool = False
    rerun_changed: bool = False
    max_concurrent: int | None = None
    reuse: tuple[str, ...] = ()


@dataclass(frozen=True)
class Errand:
    """What all trials of a run are told alike.

    Attributes:
        metric: what a search maximises.
    """

    results: ResultsFolder
    metric: str


Tick = Callable[[Mapping[str, int] | None], None]
"""Called many times a second with the tasks learned by each running trial, or with None where they are not known; it
raises to end the run at once."""


class Engine(Protocol):
    """A backend that is open: it can run trials until it is closed."""

    def check(self, reads: Sequence[Read]) -> None:
        """Read all of it once, wherever a trial may run.

        Raises:
            DataError: some of it is missing, or not the data of finished trials; the message says where.
        """
        ...

    def slots(self, sweep: SweepSpec, wanted: int, limit: int | None) -> int:
        """How many trials to run at the same time.

        Args:
            wanted: trials that the sweep has in all.
            limit: the most that the user wants.

        Raises:
            InfrastructureError: not one fits.
        """
        ...

    def drive(self, dispatcher: Dispatcher, errand: Errand, tick: Tick) -> None:
        """Run what the dispatcher hands out, until it has nothing more or is halted."""
        ...


class Backend(Protocol):
    """A way to run trials."""

    def refuse(self, sweep: SweepSpec, options: RunOptions) -> None:
        """Raise where the sweep asks for what this backend cannot do.

        Raises:
            SpecError: it does; the message names the backend that can.
        """
        ...

    def opening(self, options: RunOptions) -> str:
        """What :meth:`open` does first, in a few words; empty where it takes no time."""
        ...

    def open(
        self, sweep: SweepSpec, options: RunOptions, data_root: str | None, interruption: Interruption
    ) -> AbstractContextManager[Engine]:
        """Be ready to run trials for the duration of a block.

        Args:
            data_root: of ``options``, as every process sees it.
        """
        ...


BACKENDS = {"here": "raycl.sweep.here:Here", "ray": "raycl.distributed.backend:OnRay"}
"""Name -> module and class, which is imported when it is asked for: no sweep knows of Ray before it runs there."""


def backend(name: str) -> Backend:
    """The backend of a name.

    Raises:
        UnknownName: there is none.
    """
    if name not in BACKENDS:
        raise UnknownName(f"unknown backend {name!r}{nearest(name, BACKENDS)} (known: {', '.join(BACKENDS)})")
    module, _, kind = BACKENDS[name].partition(":")
    made: Backend = getattr(import_module(module), kind)()
    return made
