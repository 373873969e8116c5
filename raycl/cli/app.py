"""The command line. Nothing heavy is imported before a command needs it, so that ``raycl --help`` is quick."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import raycl
from raycl.addresses import shown
from raycl.cli.file_commands import copy, ls, schema
from raycl.cli.picture_commands import plot, report
from raycl.cli.results_commands import diff, export, pack, show, simulate, sync, ui, winner
from raycl.cli.run_commands import check, resume, run
from raycl.cli.terminal import Complaints, standard_error
from raycl.errors import RayclError, SpecError, exit_code


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


for command in (
    run,
    resume,
    check,
    show,
    diff,
    winner,
    plot,
    report,
    simulate,
    sync,
    ui,
    pack,
    export,
    schema,
    ls,
    copy,
):
    app.command()(command)


def main() -> None:
    """The ``raycl`` command."""
    if any("error" in option for option in sys.warnoptions):  # others' code, which this process runs, warns at times
        warnings.simplefilter("default")
    logging.lastResort = Complaints(logging.WARNING)
    app()
