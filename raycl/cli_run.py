"""What ``raycl run``, ``resume`` and ``sync`` do, and what a person sees of it."""

from __future__ import annotations

import math
import shlex
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raycl.addresses import shown
from raycl.errors import COMPLETE, METHODS_FAILED, STOPPED, UnknownName, nearest
from raycl.live import LiveTable
from raycl.matrix import AccuracyMatrix
from raycl.pretrained import pinned
from raycl.results.changes import changed_code, data_key, recorded_data
from raycl.results.store import Results, TrialStore, Verdict, traceback_path
from raycl.results.tables import comparison
from raycl.session import TrialSession
from raycl.spec.space import format_value
from raycl.spec.sweep import Entry, SweepSpec
from raycl.spec.trial import TrialSpec
from raycl.streams.refusals import check_data, check_split
from raycl.streams.source import LocalSource
from raycl.terminal import standard_output, tell

if TYPE_CHECKING:
    from raycl.distributed.runner import Ending

MIRROR_SECONDS = 60.0
"""Patience with MLflow once everything has run: its first touch of a new SQLite file alone takes 8 s."""
INTERRUPTED_SECONDS = 2.0
"""Patience where the driver was told to stop; `raycl sync` logs the rest."""
MOST_TASKS = 12
"""Matrices of more tasks do not fit a terminal."""


def run_in_process(
    sweep: SweepSpec,
    alias: str | None,
    seed: int,
    data_root: Path | None,
    results: str | None,
    *,
    force: bool = False,
    rerun_changed: bool = False,
) -> bool:
    """Run one trial here, on validation data, at the middle of its search space.

    Args:
        results: where to keep it; default: nowhere. A trial that has finished there is shown and not run again.
        force: take the folder from a driver that seems alive.
        rerun_changed: run the trial again where its method's code has changed since.

    Returns:
        Whether the method did not fail.

    Raises:
        DataError: the data are missing, or not those that the folder's trials have learned from.
        FolderInUse: another driver holds the folder.
    """
    console = standard_output(goes_on=True)
    sweep = pinned(sweep, data_root)
    entry = find_entry(sweep, alias)
    point = entry.middle
    trial = sweep.trial(entry, point, seed, "search")
    told = ", ".join(f"{path} {format_value(value)}" for path, value in point.items())
    console.print(Text.assemble((entry.key, "bold"), f"  seed {seed}{', ' + told if told else ''}"))
    with tempfile.TemporaryDirectory(prefix="raycl-") as scratch:
        folder = Results.create(results or scratch, sweep.dumps(), sweep.hash)
        with folder.lease(force):
            folder.repair()
            store = folder.trial(trial)
            source = _source(trial, data_root, folder)
            _tell_changes(sweep, trial, folder, rerun_changed, console)
            verdict = store.verdict()
            if verdict is not None and verdict.status == "finished":
                console.print("it has finished before; this is what is stored", style="dim")
            else:
                metric = sweep.search.metric if sweep.search else "average_accuracy"
                verdict = _learn(trial, source, store, metric, data_root, console)
        if verdict.status != "finished":
            console.print(Text(f"{verdict.status}: {verdict.reason}", style="red"))
            if results:
                where = f"traceback: {folder.files.name(traceback_path(trial.hash))}"
                console.print(where, markup=False, highlight=False, soft_wrap=True)
            return False
        console.print(_matrix(AccuracyMatrix.of(store.rows(), verdict.task + 1)))
        return True


def _source(trial: TrialSpec, data_root: Path | None, folder: Results) -> LocalSource:
    """The trial's stream, whose data are all there and those of the folder's other trials."""
    source = LocalSource(trial.stream, trial.seed, data_root, trial.train_on)
    for split in ("train", trial.score_on):
        check_split(source, split)
    check_data(source, recorded_data(folder).get(data_key(trial.stream), frozenset()))
    return source


def _tell_changes(sweep: SweepSpec, trial: TrialSpec, folder: Results, rerun_changed: bool, console: Console) -> None:
    """Say which stored trials come from other code, and forget this one where it shall run again."""
    for change in changed_code(folder, sweep):
        if not rerun_changed:
            console.print(Text(f"warning: {change}", style="yellow"), soft_wrap=True)
        elif any(spec.hash == trial.hash for spec in change.trials):
            folder.trial(trial).restart()


def _learn(
    trial: TrialSpec, source: LocalSource, store: TrialStore, metric: str, data_root: Path | None, console: Console
) -> Verdict:
    """Run the trial to its end, or go on with one that failed or was pruned; a line for each task."""
    torch.set_num_threads(trial.resources.cpus)
    store.reopen()
    session = TrialSession(trial, source, store, metric=metric, data_root=data_root)
    try:
        while True:
            progress = session.step()
            measured = "" if progress.metric is None else f"  {metric} {100 * progress.metric:.2f} %"
            console.print(f"task {progress.task + 1} of {progress.num_tasks}{measured}", highlight=False)
            if progress.verdict is not None:
                return progress.verdict
    finally:
        session.close()


def find_entry(sweep: SweepSpec, alias: str | None) -> Entry:
    """The entry of a name (``alias`` or ``variant/alias``), or the first that can run."""
    able = [entry for entry in sweep.entries if not entry.barred]
    found = [entry for entry in able if alias in (None, entry.alias, entry.key)]
    if not found:
        if not able:
            raise UnknownName("a sweep must have a method that its streams allow (got none); `raycl check` says why")
        known = [entry.key for entry in able]
        raise UnknownName(f"this sweep runs no {alias!r}{nearest(alias or '', known)} (it runs: {', '.join(known)})")
    return found[0]


def _matrix(matrix: AccuracyMatrix) -> Table | Text:
    """Accuracies in per cent; rows: after which task, columns: measured on which. The metrics where it is too large."""
    if matrix.num_tasks > MOST_TASKS:
        defined = {name: value for name, value in matrix.metrics().items() if not math.isnan(value)}
        return Text(", ".join(f"{name.replace('_', ' ')} {100 * value:.2f} %" for name, value in defined.items()))
    table = Table(title="accuracy % after each task, on each task", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("after", justify="right")
    for task in range(matrix.num_tasks):
        table.add_column(str(task + 1), justify="right")
    for name, row in (("-", matrix.untrained), *((str(i + 1), row) for i, row in enumerate(matrix.accuracy))):
        table.add_row(name, *("" if math.isnan(value) else f"{100 * value:.1f}" for value in row))
    return table


def run_on_ray(
    sweep: SweepSpec,
    folder: str,
    *,
    data_root: Path | None,
    address: str | None,
    force: bool,
    retry_failed: bool,
    rerun_changed: bool,
    max_concurrent: int | None,
) -> int:
    """Run a sweep with a live table, then print the comparison and where everything lies.

    Returns:
        The exit code: complete, stopped, or complete with methods that failed.
    """
    from raycl.distributed.cluster import absolute, inside_job
    from raycl.distributed.runner import run_sweep
    from raycl.results.tracking import Mirror

    console = standard_output(goes_on=True)
    if data_root is None and not inside_job():  # in a job, "here" is a temporary copy of the working directory
        data_root = Path("data")
    sweep = pinned(sweep, data_root)
    results = Results.create(absolute(folder, "RAYCL_RESULTS"), sweep.dumps(), sweep.hash)
    mirror, patience = Mirror(results), INTERRUPTED_SECONDS
    with ExitStack() as stack:
        stack.callback(lambda: mirror.close(patience))
        live = stack.enter_context(LiveTable(sweep, console))
        ending = run_sweep(
            sweep,
            results.uri,
            data_root=data_root,
            address=address,
            force=force,
            retry_failed=retry_failed,
            rerun_changed=rerun_changed,
            max_concurrent=max_concurrent,
            on_status=live.update,
            on_record=lambda record: mirror.offer(record.spec),
        )
        patience = MIRROR_SECONDS if ending.complete else INTERRUPTED_SECONDS
    _tell_ending(ending, console)
    if not ending.complete:
        return STOPPED
    return METHODS_FAILED if ending.failed else COMPLETE


def _tell_ending(ending: Ending, console: Console) -> None:
    from raycl.results.tracking import ui_command

    if not ending.complete:
        console.print(Text(shown(ending.reason), style="yellow"), soft_wrap=True)
    console.print(comparison(ending.folder))
    for note in ending.notes:
        console.print(Text(f"warning: {note}", style="yellow"), soft_wrap=True)
    for name, told in (
        ("results", shown(ending.folder)),
        ("table", f"raycl show {shlex.quote(shown(ending.folder))}"),
        ("MLflow", ui_command(ending.folder)),
    ):
        if told:
            console.print(f"{name:<8} {told}", markup=False, highlight=False, soft_wrap=True)


def sync_results(folder: str) -> None:
    """Log what MLflow lacks, and say how much that was."""
    from raycl.results.tracking import sync, tracking_uri

    logged = sync(folder)
    uri = tracking_uri(folder)
    tell(f"logged {logged} trials to {shown(uri)}" if uri else "nothing is logged")
