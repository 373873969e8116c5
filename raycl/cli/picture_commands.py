"""The commands that draw what a sweep has left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raycl.addresses import expanded, write_file
from raycl.cli.arguments import FoldersArgument
from raycl.cli.terminal import tell


def plot(
    results: FoldersArgument,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="What to draw; any other word lists what there is.")],
    file: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="What to write: a pdf, svg or png.")],
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A method or variant to draw; may be given more than once.", show_default="all"
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="Above the picture; '' for none.", show_default="the sweep's name")
    ] = None,
) -> None:
    """Draw one picture of the results, for a paper."""
    from raycl.results.plots import save
    from raycl.results.plots.kinds import draw
    from raycl.results.view import Results

    save(draw(Results(*results), kind, only or (), title), expanded(file))
    tell(str(file))


def report(
    results: FoldersArgument,
    file: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="What to write.")] = Path("report.html"),
) -> None:
    """Write one page about the results that stands by itself: question, answer, table, pictures, costs, versions."""
    from raycl.results.report import page
    from raycl.results.view import Results

    data = page(Results(*results)).encode()
    write_file(expanded(file), data)
    tell(f"{file}: {len(data) / 1e6:.1f} MB")
