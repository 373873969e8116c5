"""What ``raycl ls results`` prints: the results folders and packs below a root."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from raycl.addresses import shown
from raycl.cli.fitting import Fitting
from raycl.results.comparison import Line
from raycl.results.layout import mean_and_margin
from raycl.results.listed import Listed, listed

AGES = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
MOST_VARIANTS = 2
"""Of one sweep, whose best methods are named."""


def listing(root: str) -> RenderableType:
    """A line for each sweep, the one that changed last first.

    Raises:
        StoreError: there is no such folder.
    """
    found = listed(root)
    if not found:
        return Text(f"{shown(root)}: no results of raycl lie here, or up to three folders below", style="dim")
    headings = ("results", "sweep", "state", "trials", "best method", "age")
    table = Fitting(
        headings, [_row(one) for one in found], ("sweep", "trials", "age", "state"), ("trials", "age"), ("results",)
    )
    problems = [Text(f"{one.path or '.'}: {one.problem}", style="red") for one in found if one.problem]
    return Group(table, *problems)


def _row(one: Listed) -> Sequence[str]:
    state = one.state + (f", {one.failed} failed" if one.failed else "")
    return one.path or ".", one.sweep, state, str(one.trials or ""), "\n".join(_best(one.best)), age(one.changed)


def _best(lines: Sequence[Line]) -> list[str]:
    told = [f"{line.key} {mean_and_margin(line)}" for line in lines[:MOST_VARIANTS]]
    more = len(lines) - MOST_VARIANTS
    return [*told, f"and of {more} more variant{'s' * (more > 1)}"] if more > 0 else told


def age(changed: float | None) -> str:
    """How long ago something changed: ``3 h``."""
    if changed is None:
        return ""
    seconds = max(0.0, time.time() - changed)
    return next((f"{seconds / size:.0f} {unit}" for unit, size in AGES if seconds >= size), "0 s")
