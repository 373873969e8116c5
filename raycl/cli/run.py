"""What ``raycl run``, ``resume`` and ``sync`` do, and what a person sees of it."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console
from rich.text import Text

from raycl.addresses import shown
from raycl.cli.live import LiveTable
from raycl.cli.show import report
from raycl.cli.terminal import standard_output, tell
from raycl.errors import COMPLETE, METHODS_FAILED, STOPPED, MethodError
from raycl.results.store import REPORT, ResultsFolder
from raycl.results.tables import matrix_table
from raycl.results.trackers.tracker import TRACKERS
from raycl.spec.distribution import format_value
from raycl.spec.sweep import SweepSpec
from raycl.sweep.backend import RunOptions
from raycl.sweep.run import Ending, run_sweep
from raycl.trial.alone import run_trial
from raycl.trial.session import Progress


def run_in_process(sweep: SweepSpec, alias: str | None, seed: int, data_root: Path | None) -> bool:
    """Run one trial here, on validation data, at the middle of its search space; nothing is saved.

    Returns:
        Whether the method did not fail.

    Raises:
        DataError: the data are missing.
    """
    console = standard_output(goes_on=True)
    entry = sweep.find(alias)
    told = "".join(f", {path} {format_value(value)}" for path, value in entry.middle.items())
    console.print(Text.assemble((entry.key, "bold"), f"  seed {seed}{told}"))

    def tell_task(progress: Progress) -> None:
        measured = "" if progress.metric is None else f"  {sweep.metric} {100 * progress.metric:.2f} %"
        console.print(f"task {progress.task + 1} of {progress.num_tasks}{measured}", highlight=False)

    try:
        trial = run_trial(sweep, entry.key, seed=seed, data_root=data_root, on_task=tell_task)
    except MethodError as error:
        console.print(Text(f"failed: {error}", style="red"))
        for trace in getattr(error, "__notes__", ()):
            console.print(trace, markup=False, highlight=False, soft_wrap=True, style="dim")
        return False
    console.print(matrix_table(trial.matrix))
    return True


def run_and_tell(sweep: SweepSpec, folder: str, backend: str, options: RunOptions) -> int:
    """Run a sweep with a live table, then print the comparison and where everything lies.

    Returns:
        The exit code: complete, stopped, or complete with methods that failed.
    """
    console = standard_output(goes_on=True)
    with LiveTable(sweep, console) as live:
        trackers = TRACKERS.names()
        ending = run_sweep(
            sweep, folder, backend=backend, options=options, trackers=trackers, report=True, on_status=live.update
        )
    _tell_ending(ending, console)
    if not ending.complete:
        return STOPPED
    return METHODS_FAILED if ending.failed else COMPLETE


def _tell_ending(ending: Ending, console: Console) -> None:
    from raycl.results.trackers.mlflow_address import nowhere, ui_command

    if not ending.complete:
        console.print(Text(shown(ending.reason), style="yellow"), soft_wrap=True)
    console.print(report([ending.folder]))
    for note in ending.notes:
        console.print(Text(f"warning: {note}", style="yellow"), soft_wrap=True)
    for name, told in (
        ("results", shown(ending.folder)),
        ("table", f"raycl show {shlex.quote(shown(ending.folder))}"),
        ("report", ending.report),
        ("MLflow", ui_command(ending.folder) or shown(nowhere(ending.folder))),
    ):
        if told:
            console.print(f"{name:<8} {told}", markup=False, highlight=False, soft_wrap=True)


def sync_results(folder: str) -> None:
    """Log what MLflow lacks, write the report anew where the sweep has one, and say so."""
    from raycl.results.trackers.mlflow import sync, tracking_uri

    logged = sync(folder)
    uri = tracking_uri(folder)
    tell(f"logged {logged} trials to {shown(uri)}" if uri else "nothing is logged")
    files = ResultsFolder.open(folder).files
    if files.exists(REPORT):
        tell(f"report {files.name(REPORT)}")
