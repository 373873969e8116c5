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
from raycl.cli.terminal import Complaints, standard_error, standard_output, tell
from raycl.errors import COMPLETE, METHODS_FAILED, RayclError, SpecError, exit_code

if TYPE_CHECKING:
    from raycl.spec.sweep import SweepSpec
    from raycl.sweep.backend import RunOptions


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


app = typer.Typer(
    cls=_Commands,
    help="Continual-learning sweeps on Ray: one YAML file in, one comparison table out.",
    epilog="Start with: [bold]raycl run quickstart[/bold]. On a cluster: "
    "[bold]ray job submit --working-dir . -- raycl run FILE[/bold].",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SweepFileArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="A sweep file (YAML), or a name of [bold]raycl ls sweeps[/bold].",
        show_default=False,
    ),
]
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
BackendOption = Annotated[
    str, typer.Option("--backend", metavar="NAME", help="Where trials run: ray, in parallel, or here, one by one.")
]
Import = Annotated[
    list[str] | None,
    typer.Option(
        "--import", metavar="CODE", help="Python file or module that registers methods, models, streams, data sets."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Take a folder over from a driver that seems alive.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run trials again whose method failed.")]
RerunChanged = Annotated[
    bool, typer.Option("--rerun-changed", help="Run trials again whose method's code has changed since they ended.")
]
Reuse = Annotated[
    list[str] | None,
    typer.Option(metavar="FOLDER", help="Take finished trials of another results folder; may be given more than once."),
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
    _import(code)
    sweep = _load(file)
    if in_process:
        from raycl.cli.run import run_in_process

        if not run_in_process(sweep, strategy, seed or 0, _data_root(data_root)):
            raise typer.Exit(METHODS_FAILED)
        return
    folder = results or _default_folder(sweep.name)
    asked = _options(data_root, address, force, retry_failed, rerun_changed, max_concurrent, tuple(reuse or ()))
    _run(sweep, folder, backend, asked)


@app.command()
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

    _import(code)
    sweep = SweepSpec.loads(ResultsFolder.open(results).sweep_json, catalog())
    _run(sweep, results, backend, _options(data_root, address, force, retry_failed, rerun_changed, max_concurrent))


@app.command()
def check(file: SweepFileArgument, code: Import = None) -> None:
    """Show what a sweep would run; needs neither Ray nor data. Exits with 2 and every error of the file."""
    _import(code)
    sweep = _load(file)
    from raycl.cli.check import summary  # late, as it imports torch

    standard_output().print(summary(sweep, _results_root()))


@app.command()
def show(
    results: FolderArgument,
    failures: Annotated[
        bool, typer.Option("--failures", help="Show why and where trials failed, with their tracebacks.")
    ] = False,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Compare methods with this one.", show_default="the best on validation data"),
    ] = None,
) -> None:
    """Print the comparison table of a results folder."""
    from raycl.cli.show import failure_report, report

    standard_output().print(failure_report(results) if failures else report(results, baseline))


@app.command()
def simulate(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Results of a table, or what pack wrote of them.")],
    protocol: Annotated[str, typer.Option(help="end_of_training, or first_tasks=K.")] = "end_of_training",
    sampler: Annotated[str, typer.Option(help="tpe, gp, random or qmc.")] = "tpe",
    trials: Annotated[int, typer.Option(metavar="N", help="Points of each method that a search tries.")] = 20,
    generation: Annotated[int, typer.Option(metavar="N", help="Suggestions made at once.")] = 5,
    startup: Annotated[int, typer.Option(metavar="N", help="Suggestions before the sampler learns.")] = 5,
    budget: Annotated[
        int | None,
        typer.Option(metavar="N", help="Trainings of a task that a search may spend.", show_default="by --trials"),
    ] = None,
    pruner: Annotated[str | None, typer.Option(help="Such as quantile=.5,grace_tasks=2.", show_default="none")] = None,
    repeats: Annotated[int, typer.Option(metavar="N", help="Searches of each method.")] = 100,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the first search's sampler.")] = 0,
    search_seeds: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Seeds whose mean a search sees.", show_default="one by turns"),
    ] = None,
    strategy: Annotated[str | None, typer.Option(metavar="NAME", help="One method.", show_default="all")] = None,
    code: Import = None,
) -> None:
    """Say what searches over a table would have chosen and scored, without training."""
    _import(code)
    from raycl.cli.simulate import printed

    search = {"protocol": protocol, "sampler": sampler, "trials": trials, "generation": generation, "startup": startup}
    search |= {"budget": budget, "repeats": repeats, "seed": seed, "strategy": strategy}
    standard_output().print(printed(table, search, pruner, search_seeds))


@app.command()
def sync(results: FolderArgument) -> None:
    """Log results to MLflow that its server has missed."""
    from raycl.cli.run import sync_results

    sync_results(results)


@app.command()
def ui(
    results: FolderArgument,
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port to use; 0: a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser too.")] = True,
) -> None:
    """Show the runs of a results folder in MLflow's pages, till Ctrl-C."""
    from raycl.cli.ui import serve

    serve(results, port, browser)


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
        str | None, typer.Option(metavar="N", help="Which final trial.", show_default="the first seed")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Write the backbone of a finished trial as pretrained weights, for model.weights and stream.encode."""
    from raycl.cli.export import export as export_backbone

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
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="strategies, streams, datasets, models, sweeps, or a block: training, ..., metrics."
        ),
    ],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One of them, with its options.")] = None,
    code: Import = None,
) -> None:
    """List what a sweep file may name, or the sweep files that come with raycl; with a name, all about that one."""
    if kind == "sweeps":
        from raycl.cli import shipped

        standard_output().print(shipped.listing() if name is None else shipped.heading(name))
        return
    from raycl.cli.ls import KINDS, listing  # late, as it imports torch

    _import(code)
    if kind not in KINDS:
        raise typer.BadParameter(f"must be one of {', '.join((*KINDS, 'sweeps'))} (got {kind!r})")
    standard_output().print(listing(kind, name))


@app.command()
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A sweep of [bold]raycl ls sweeps[/bold].")],
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="What to write.", show_default="NAME.yaml, here")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--force", help="Overwrite a file that stands there.")] = False,
) -> None:
    """Copy a sweep file that comes with raycl, to change it."""
    from raycl.cli.copy import copy as copy_sweep

    copy_sweep(name, None if file is None else expanded(file), overwrite)


def _import(code: list[str] | None) -> None:
    if code:
        from raycl.spec.own_files import import_code

        for given in code:
            import_code(given)


def _load(file: Path) -> SweepSpec:
    from raycl.cli.shipped import resolved
    from raycl.spec.source import read

    source = read(resolved(expanded(file)))
    from raycl.trial.check import judged  # late: it imports torch, and a file that is no YAML has no need of it

    return judged(source)


def _default_folder(name: str) -> str:
    """Where a sweep's results lie unless one is told; a variable that is set to nothing says nothing."""
    return f"{_results_root()}/{name}"


def _results_root() -> str:
    return (os.environ.get("RAYCL_RESULTS") or "results").rstrip("/")


def _data_root(given: Path | None) -> Path:
    return expanded(given or "data").absolute()


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


def main() -> None:
    """The ``raycl`` command."""
    if any("error" in option for option in sys.warnoptions):  # others' code, which this process runs, warns at times
        warnings.simplefilter("default")
    logging.lastResort = Complaints(logging.WARNING)
    app()
