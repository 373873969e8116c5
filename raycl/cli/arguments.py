"""What several commands take: files, folders, places of data, and code of one's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from raycl.addresses import expanded

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
FoldersArgument = Annotated[
    list[str],
    typer.Argument(metavar="RESULTS", help="Results folders, or what pack wrote of them.", show_default=False),
]
FORMAT_NAMES = ("csv", "json", "markdown", "latex")
"""Of ``raycl show``, beside the table; those of :data:`raycl.results.printed.FORMATS`, which takes time to import."""
BaselineOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Compare methods with this one.", show_default="the best on validation data"),
]
MetricOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Compare methods by this metric.", show_default="average_accuracy")
]
StrategiesOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Show this method only; may be given more than once.", show_default="all"),
]
SortOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Order of the lines: rank, name, validation, seconds, memory, parameters, or a metric.",
        show_default="rank",
    ),
]
PointsOption = Annotated[
    bool | None,
    typer.Option("--points/--no-points", help="The winners' hyperparameters.", show_default="where they fit"),
]
FormatOption = Annotated[
    str, typer.Option("--format", metavar="NAME", help="table, or csv, json, markdown, latex: nothing else is printed.")
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


def import_own(code: list[str] | None) -> None:
    """Import what ``--import`` names, which registers methods, models, streams or data sets."""
    if code:
        from raycl.spec.own_files import import_code

        for given in code:
            import_code(given)


def results_root() -> str:
    """Where results folders lie unless one is told; a variable that is set to nothing says nothing."""
    return (os.environ.get("RAYCL_RESULTS") or "results").rstrip("/")


def data_root_of(given: Path | None) -> Path:
    """Where data sets lie."""
    return expanded(given or "data").absolute()
