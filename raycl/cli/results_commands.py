"""The commands that read what a sweep has left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raycl.addresses import expanded
from raycl.cli.arguments import (
    FORMAT_NAMES,
    BaselineOption,
    DataRoot,
    FolderArgument,
    FoldersArgument,
    FormatOption,
    Import,
    MetricOption,
    PointsOption,
    SortOption,
    StrategiesOption,
    data_root_of,
    import_own,
)
from raycl.cli.terminal import emit, standard_output, tell, warn


def show(
    results: FoldersArgument,
    failures: Annotated[
        bool, typer.Option("--failures", help="Show why and where trials failed, with their tracebacks.")
    ] = False,
    baseline: BaselineOption = None,
    metric: MetricOption = None,
    strategy: StrategiesOption = None,
    sort: SortOption = None,
    points: PointsOption = None,
    form: FormatOption = "table",
) -> None:
    """Print the comparison table of results folders, and of what pack wrote."""
    from raycl.cli.show import View, failure_report, report, text

    view = View(baseline, metric, tuple(strategy or ()), sort, points)
    if form not in ("table", *FORMAT_NAMES):
        raise typer.BadParameter(f"--format must be one of table, {', '.join(FORMAT_NAMES)} (got {form!r})")
    if failures:
        if form != "table" or view != View():
            raise typer.BadParameter(
                "--failures shows tracebacks, which no other option of the table changes; leave it"
            )
        standard_output().print(*(failure_report(folder) for folder in results))
    elif form == "table":
        standard_output().print(report(results, view))
    else:
        data, missing = text(results, form, view)
        warn(missing)
        emit(data)


def diff(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A results folder, or what pack wrote.", show_default=False)
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Compare figures of this metric.", show_default="average_accuracy"),
    ] = None,
) -> None:
    """Say in what two results folders differ: settings, code, data, machines, and then in what figures."""
    from raycl.cli.diff import difference

    standard_output().print(difference(first, second, metric))


def winner(
    results: FolderArgument,
    strategy: Annotated[str, typer.Argument(metavar="STRATEGY", help="A method of the sweep, by its name there.")],
    code: Import = None,
) -> None:
    """Print a sweep file with a method's winner in place of its search: its final trials, and no others."""
    import_own(code)
    from raycl.results.winner_file import winner_file

    emit(winner_file(results, strategy))


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
    import_own(code)
    from raycl.cli.simulate import printed

    search = {"protocol": protocol, "sampler": sampler, "trials": trials, "generation": generation, "startup": startup}
    search |= {"budget": budget, "repeats": repeats, "seed": seed, "strategy": strategy}
    standard_output().print(printed(table, search, pruner, search_seeds))


def sync(results: FolderArgument) -> None:
    """Log results to MLflow that its server has missed."""
    from raycl.cli.run import sync_results

    sync_results(results)


def ui(
    results: FolderArgument,
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port to use; 0: a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser too.")] = True,
) -> None:
    """Show the runs of a results folder in MLflow's pages, till Ctrl-C."""
    from raycl.cli.ui import serve

    serve(results, port, browser)


def pack(
    results: FolderArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where trials.parquet and cells.parquet go.")],
) -> None:
    """Write all trials and all matrices of a results folder as two Parquet files."""
    from raycl.results.packing import pack as pack_results

    trials, cells = pack_results(results, expanded(folder))
    tell(f"{trials} trials and {cells} cells of their matrices in {folder}")


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

    export_backbone(results, strategy, expanded(file), seed, data_root_of(data_root))
