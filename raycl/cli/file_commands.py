"""The commands on sweep files: what may stand in one, and those that come with raycl."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raycl.addresses import expanded
from raycl.cli.arguments import Import, import_own, results_root
from raycl.cli.terminal import standard_output, tell


def ls(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="strategies, streams, datasets, models, sweeps, a block: training, ..., metrics; or results.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="One of them, with its options; of results the folder below which they lie."
        ),
    ] = None,
    code: Import = None,
) -> None:
    """List what a sweep file may name, the sweep files that come with raycl, or results; with a name, all about it."""
    if kind == "results":
        from raycl.cli.ls_results import listing as results_below

        standard_output().print(results_below(name or results_root()))
        return
    if kind == "sweeps":
        from raycl.cli import shipped

        standard_output().print(shipped.listing() if name is None else shipped.heading(name))
        return
    from raycl.cli.ls import KINDS, listing  # late, as it imports torch

    import_own(code)
    if kind not in KINDS:
        raise typer.BadParameter(f"must be one of {', '.join((*KINDS, 'sweeps', 'results'))} (got {kind!r})")
    standard_output().print(listing(kind, name))


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


def schema() -> None:
    """Print the JSON Schema of sweep files, for editors."""
    import json

    from raycl.catalog import catalog
    from raycl.spec.schema import json_schema

    tell(json.dumps(json_schema(catalog()), indent=2))
