"""A sweep as a notebook runs it: one call, and its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from raycl.results.trackers.tracker import TRACKERS
from raycl.results.view import Results
from raycl.spec.sweep import SweepSpec
from raycl.sweep.backend import RunOptions
from raycl.sweep.notebook import NotebookTable
from raycl.sweep.run import Ending, run_sweep
from raycl.sweep.status import SweepStatus
from raycl.trial.check import load_sweep


def run(
    sweep: SweepSpec | str | Path | Mapping[str, Any],
    folder: str | Path,
    *,
    backend: str = "here",
    data_root: str | Path | None = None,
    address: str | None = None,
    force: bool = False,
    retry_failed: bool = False,
    rerun_changed: bool = False,
    max_concurrent: int | None = None,
    reuse: Sequence[str | Path] = (),
    on_status: Callable[[SweepStatus], None] | None = None,
) -> Finished:
    """Run what a results folder still lacks of a sweep, and read it.

    Args:
        sweep: as :func:`load_sweep` gives it, or what it takes.
        folder: a path, or a URI that pyarrow's file systems take.
        backend: ``here`` runs trials one after another in this process, ``ray`` in parallel; the table is the same.
        data_root: folder of the data sets; default: ``data`` in the working directory.
        address: of a Ray cluster to join; default: ``RAY_ADDRESS``, else one is started for this run.
        force: take the folder even where another driver seems alive.
        retry_failed: run trials again whose method failed.
        rerun_changed: run trials again whose method's code has changed since they ended.
        max_concurrent: trials at the same time; default: the sweep's, else what fits.
        reuse: other results folders, whose finished trials are taken in place of being run.
        on_status: shown where the sweep stands, at most four times a second; default: a table in a notebook, elsewhere
            nothing.

    Raises:
        SpecError: with every problem of the sweep.
        StoreError: the folder cannot be used, or is in use.
        DataError: a data set is missing.
        InfrastructureError: the cluster cannot be reached or is too small.
    """
    asked = sweep if isinstance(sweep, SweepSpec) else load_sweep(sweep)
    root = None if data_root is None else str(data_root)
    options = RunOptions(root, address, force, retry_failed, rerun_changed, max_concurrent, tuple(map(str, reuse)))
    trackers = TRACKERS.names()
    table = NotebookTable(asked.name) if on_status is None and Console().is_jupyter else None
    shown = on_status or table or (lambda status: None)
    ending = run_sweep(asked, folder, backend=backend, options=options, trackers=trackers, report=True, on_status=shown)
    if table is not None:
        table.finish()
    return Finished(ending)


class Finished(Results):
    """The results of a sweep that was just run.

    Attributes:
        ending: how the run ended; ``ending.complete`` says whether nothing is left to run.
    """

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.folder)
        self.ending = ending
