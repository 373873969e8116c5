"""The commands that run a sweep, or say what one would run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raycl.addresses import expanded
from raycl.cli.arguments import (
    Address,
    BackendOption,
    DataRoot,
    FolderArgument,
    Force,
    Import,
    MaxConcurrent,
    RerunChanged,
    RetryFailed,
    Reuse,
    SweepFileArgument,
    data_root_of,
    import_own,
    results_root,
)
from raycl.cli.terminal import standard_output
from raycl.errors import COMPLETE, METHODS_FAILED

if TYPE_CHECKING:
    from raycl.spec.sweep import SweepSpec
    from raycl.sweep.backend import RunOptions


def run(
    file: SweepFileArgument,
    results: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Results folder: a path or a URI.", show_default="$RAYCL_RESULTS/NAME"),
    ] = None,
    backend: BackendOption = "ray",
    data_root: DataRoot = None,
    address: Address = None,
    force: Force = False,
    retry_failed: RetryFailed = False,
    rerun_changed: RerunChanged = False,
    max_concurrent: MaxConcurrent = None,
    reuse: Reuse = None,
    code: Import = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Run one trial here and save nothing, for debugging.")
    ] = False,
    strategy: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --in-process: which method.", show_default="the first")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=2**63 - 1, help="With --in-process: the run's seed.", show_default="0"),
    ] = None,
) -> None:
    """Run a sweep, or what its results folder still lacks of it."""
    if not in_process and (strategy is not None or seed is not None):
        raise typer.BadParameter("--strategy and --seed choose the trial of --in-process; add it")
    if in_process and max_concurrent is not None:
        raise typer.BadParameter("--in-process runs one trial; --max-concurrent does nothing beside it")
    if in_process and (results or force or retry_failed or rerun_changed or reuse):
        raise typer.BadParameter("--in-process runs one trial and saves nothing; --backend here runs the sweep here")
    import_own(code)
    sweep = _load(file)
    if in_process:
        from raycl.cli.run import run_in_process

        if not run_in_process(sweep, strategy, seed or 0, data_root_of(data_root)):
            raise typer.Exit(METHODS_FAILED)
        return
    folder = results or _default_folder(sweep.name)
    asked = _options(data_root, address, force, retry_failed, rerun_changed, max_concurrent, tuple(reuse or ()))
    _run(sweep, folder, backend, asked)


def resume(
    results: FolderArgument,
    backend: BackendOption = "ray",
    data_root: DataRoot = None,
    address: Address = None,
    force: Force = False,
    retry_failed: RetryFailed = False,
    rerun_changed: RerunChanged = False,
    max_concurrent: MaxConcurrent = None,
    code: Import = None,
) -> None:
    """Go on with a sweep from its results folder alone."""
    from raycl.catalog import catalog
    from raycl.results.store import ResultsFolder
    from raycl.spec.sweep import SweepSpec

    import_own(code)
    sweep = SweepSpec.loads(ResultsFolder.open(results).sweep_json, catalog())
    _run(sweep, results, backend, _options(data_root, address, force, retry_failed, rerun_changed, max_concurrent))


def check(file: SweepFileArgument, code: Import = None) -> None:
    """Show what a sweep would run; needs neither Ray nor data. Exits with 2 and every error of the file."""
    import_own(code)
    sweep = _load(file)
    from raycl.cli.check import summary  # late, as it imports torch

    standard_output().print(summary(sweep, results_root()))


def _load(file: Path) -> SweepSpec:
    from raycl.cli.shipped import resolved
    from raycl.spec.source import read

    source = read(resolved(expanded(file)))
    from raycl.trial.check import judged  # late: it imports torch, and a file that is no YAML has no need of it

    return judged(source)


def _default_folder(name: str) -> str:
    """Where a sweep's results lie unless one is told."""
    return f"{results_root()}/{name}"


def _options(
    data_root: Path | None,
    address: str | None,
    force: bool,
    retry_failed: bool,
    rerun_changed: bool,
    max_concurrent: int | None,
    reuse: tuple[str, ...] = (),
) -> RunOptions:
    from raycl.sweep.backend import RunOptions

    root = None if data_root is None else str(expanded(data_root))
    return RunOptions(root, address, force, retry_failed, rerun_changed, max_concurrent, reuse)


def _run(sweep: SweepSpec, folder: str, backend: str, options: RunOptions) -> None:
    """Run, then show the comparison. Exits with 1 where the sweep stopped early, with 3 where methods failed."""
    from raycl.cli.run import run_and_tell

    code = run_and_tell(sweep, folder, backend, options)
    if code != COMPLETE:
        raise typer.Exit(code)
