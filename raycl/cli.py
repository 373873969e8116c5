"""The command line. Nothing heavy is imported before a command needs it, so that ``raycl --help`` is quick."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import raycl
from raycl.addresses import expanded, shown
from raycl.errors import COMPLETE, METHODS_FAILED, RayclError, SpecError, exit_code
from raycl.terminal import Complaints, standard_error, standard_output, tell

if TYPE_CHECKING:
    from raycl.spec.sweep import SweepSpec


class _Commands(TyperGroup):
    """Shows an error of raycl as one line (a line per problem of a sweep file), never as a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SpecError as error:
            _complain(str(problem) for problem in error.problems)
            raise typer.Exit(exit_code(error)) from None
        except RayclError as error:
            _complain([f"error: {error}"])
            raise typer.Exit(exit_code(error)) from None

    def list_commands(self, ctx: Any) -> list[str]:
        return ["run", "check", "show", "resume", "sync", "export", "ls", "schema"]


app = typer.Typer(
    cls=_Commands,
    help="Continual-learning sweeps on Ray: one YAML file in, one comparison table out.",
    epilog="Start with: [bold]raycl run sweeps/quickstart.yaml[/bold]. On a cluster: "
    "[bold]ray job submit --working-dir . -- raycl run FILE[/bold].",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SweepFileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A sweep file (YAML).", show_default=False)]
FolderArgument = Annotated[
    str, typer.Argument(metavar="RESULTS", help="A sweep's results folder: a path or a URI.", show_default=False)
]
DataRoot = Annotated[
    Path | None,
    typer.Option(metavar="DIR", envvar="RAYCL_DATA", help="Folder of the data sets.", show_default="./data"),
]
Address = Annotated[
    str | None,
    typer.Option(envvar="RAY_ADDRESS", help="Ray cluster to join; without one, Ray starts on this machine."),
]
Force = Annotated[bool, typer.Option("--force", help="Take a folder over from a driver that seems alive.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run trials again whose method failed.")]
RerunChanged = Annotated[
    bool, typer.Option("--rerun-changed", help="Run trials again whose method's code has changed since they ended.")
]
MaxConcurrent = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Trials at the same time, at most.", show_default=False)
]


def _complain(lines: Iterable[str]) -> None:
    console = standard_error()
    for line in lines:
        console.print(shown(line), style="red", markup=False, highlight=False, soft_wrap=True)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"raycl {raycl.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """The options of every command."""


@app.command()
def run(
    file: SweepFileArgument,
    results: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Results folder: a path or a URI.", show_default="$RAYCL_RESULTS/NAME"),
    ] = None,
    data_root: DataRoot = None,
    address: Address = None,
    force: Force = False,
    retry_failed: RetryFailed = False,
    rerun_changed: RerunChanged = False,
    max_concurrent: MaxConcurrent = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Run one trial here, without Ray, for debugging.")
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
    sweep = _load(file)
    if in_process:
        from raycl.cli_run import run_in_process

        root, again = _data_root(data_root), rerun_changed
        if not run_in_process(sweep, strategy, seed or 0, root, results, force=force, rerun_changed=again):
            raise typer.Exit(METHODS_FAILED)
        return
    folder = results or _default_folder(sweep.name)
    _run(sweep, folder, data_root, address, force, retry_failed, rerun_changed, max_concurrent)


@app.command()
def resume(
    results: FolderArgument,
    data_root: DataRoot = None,
    address: Address = None,
    force: Force = False,
    retry_failed: RetryFailed = False,
    rerun_changed: RerunChanged = False,
    max_concurrent: MaxConcurrent = None,
) -> None:
    """Go on with a sweep from its results folder alone."""
    from raycl.catalog import catalog
    from raycl.results.store import Results
    from raycl.spec.sweep import SweepSpec

    sweep = SweepSpec.loads(Results.open(results).sweep_json, catalog())
    _run(sweep, results, data_root, address, force, retry_failed, rerun_changed, max_concurrent)


@app.command()
def check(file: SweepFileArgument) -> None:
    """Show what a sweep would run; needs neither Ray nor data. Exits with 2 and every error of the file."""
    sweep = _load(file)
    from raycl.cli_check import summary  # late, as it imports torch

    standard_output().print(summary(sweep))


@app.command()
def show(
    results: FolderArgument,
    failures: Annotated[
        bool, typer.Option("--failures", help="Show why and where trials failed, with their tracebacks.")
    ] = False,
) -> None:
    """Print the comparison table of a results folder."""
    from raycl.cli_show import failure_report
    from raycl.results.tables import comparison

    standard_output().print(failure_report(results) if failures else comparison(results))


@app.command()
def sync(results: FolderArgument) -> None:
    """Log results to MLflow that its server has missed."""
    from raycl.cli_run import sync_results

    sync_results(results)


@app.command()
def pack(
    results: FolderArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where trials.parquet and cells.parquet go.")],
) -> None:
    """Write all trials and all matrices of a results folder as two Parquet files."""
    from raycl.results.packing import pack as pack_results

    trials, cells = pack_results(results, expanded(folder))
    tell(f"{trials} trials and {cells} cells of their matrices in {folder}")


@app.command()
def export(
    results: FolderArgument,
    strategy: Annotated[str, typer.Argument(metavar="STRATEGY", help="A method of the sweep, by its name there.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to write: NAME.safetensors.")],
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Which final trial.", show_default="the first seed")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Write the backbone of a finished trial as pretrained weights, for model.weights and stream.encode."""
    from raycl.cli_export import export as export_backbone

    export_backbone(results, strategy, expanded(file), seed, _data_root(data_root))


@app.command()
def schema() -> None:
    """Print the JSON Schema of sweep files, for editors."""
    import json

    from raycl.catalog import catalog
    from raycl.spec.schema import json_schema

    tell(json.dumps(json_schema(catalog()), indent=2))


@app.command()
def ls(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="strategies, streams, datasets or models.")],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One of them, with its options.")] = None,
) -> None:
    """List what a sweep file may name; with a name, its options, defaults and bounds."""
    from raycl.cli_list import KINDS, listing

    if kind not in KINDS:
        raise typer.BadParameter(f"must be one of {', '.join(KINDS)} (got {kind!r})")
    standard_output().print(listing(kind, name))


def _load(file: Path) -> SweepSpec:
    from raycl.spec.source import read
    from raycl.spec.sweep import SweepSpec

    source = read(expanded(file))
    from raycl.catalog import catalog  # late: these import torch, and a file that is no YAML has no need of it
    from raycl.dry_build import build_all

    sweep = SweepSpec.of(source, catalog())
    return sweep.warned(build_all(sweep))


def _default_folder(name: str) -> str:
    """Where a sweep's results lie unless one is told; a variable that is set to nothing says nothing."""
    return f"{(os.environ.get('RAYCL_RESULTS') or 'results').rstrip('/')}/{name}"


def _data_root(given: Path | None) -> Path:
    return expanded(given or "data").absolute()


def _run(
    sweep: SweepSpec,
    folder: str,
    data_root: Path | None,
    address: str | None,
    force: bool,
    retry_failed: bool,
    rerun_changed: bool,
    max_concurrent: int | None,
) -> None:
    """Run on Ray, then show the comparison. Exits with 1 where the sweep stopped early, with 3 where methods failed."""
    from raycl.cli_run import run_on_ray

    code = run_on_ray(
        sweep,
        folder,
        data_root=None if data_root is None else expanded(data_root),
        address=address,
        force=force,
        retry_failed=retry_failed,
        rerun_changed=rerun_changed,
        max_concurrent=max_concurrent,
    )
    if code != COMPLETE:
        raise typer.Exit(code)


def main() -> None:
    """The ``raycl`` command."""
    if any("error" in option for option in sys.warnoptions):  # others' code, which this process runs, warns at times
        warnings.simplefilter("default")
    logging.lastResort = Complaints(logging.WARNING)
    app()
