"""What ``raycl diff`` prints: in what two results folders differ, from what was asked to what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from raycl.cli.fitting import Fitting
from raycl.results.contrast import Changed, Contrast, Figures, contrast
from raycl.results.layout import interval_in_percent, rounded_p
from raycl.results.statistics import LEVEL


def difference(first: str, second: str, metric: str | None) -> RenderableType:
    """Both folders, part by part.

    Raises:
        StoreError: one of them is no results folder and no pack, or a part of it is damaged.
    """
    found = contrast(first, second, metric or "average_accuracy")
    head = [Text(f"A  {found.names[0]}"), Text(f"B  {found.names[1]}")]
    parts = {"settings": found.settings, "code": found.code, "data": found.data, "machines": found.machines}
    return Group(*head, *(_part(title, changed) for title, changed in parts.items()), *_figures(found))


def _part(title: str, changed: Sequence[Changed] | None) -> RenderableType:
    if not changed:
        return Text.assemble((title, "bold"), "  nothing is known of it" if changed is None else "  nothing differs")
    rows = [(one.name, one.first, one.second) for one in changed]
    return Group(Text(title, style="bold"), Fitting(("", "A", "B"), rows, folded=("", "A", "B"), narrowest=12))


def _figures(found: Contrast) -> Iterator[RenderableType]:
    """The table of figures, and what is to be said of it."""
    yield Text(f"{found.metric.replace('_', ' ')} %, of the winners on test data", style="bold")
    if found.figures:
        headings = ("strategy", "A", "B", "B - A", "seeds", "p", "")
        spared = () if any(one.difference for one in found.figures) else headings[3:]
        rows = [_row(one) for one in found.figures]
        shown = [place for place, name in enumerate(headings) if name not in spared]
        cells = [[row[place] for place in shown] for row in rows]
        names = [headings[place] for place in shown]
        yield Fitting(names, cells, ("p", "seeds", *(() if spared else "AB")), ("A", "B", "B - A", "p"), ("",), 8)
    else:
        yield Text("no method has figures on test data in both", style="dim")
    yield from (Text(note, style="dim") for note in _notes(found))


def _notes(found: Contrast) -> Iterator[str]:
    if found.asked_otherwise:
        yield f"The two differ in {'; '.join(found.asked_otherwise)}: their figures are not compared."
    elif found.figures:
        count = len(found.figures)
        yield (
            f"± : half-width of the {100 * LEVEL:.0f} % t-interval. Paired: over seeds that both have; independent "
            f"(Welch's t) with fewer than two; p corrected for {count} comparison{'s' * (count > 1)} (Holm)."
        )
    for name, alone in zip("AB", found.alone, strict=True):
        if alone:
            yield f"Only {name} has figures of {', '.join(sorted(alone))}."
    if found.common:
        moved = f"{found.moved} of them with other figures" if found.moved else "all with the same figures"
        yield f"Trials of the same name that have finished in both: {found.common}, {moved}."


def _row(one: Figures) -> Sequence[str]:
    told = "" if one.difference is None else "equal" if one.equal else _told(one.better)
    return (
        one.key,
        interval_in_percent(one.first),
        interval_in_percent(one.second),
        "" if one.difference is None else interval_in_percent(one.difference, "+"),
        "" if one.difference is None else f"{one.difference.n} paired" if one.paired else "independent",
        "" if math.isnan(one.p) else rounded_p(one.p),
        told,
    )


def _told(better: bool | None) -> str:
    return "not told apart" if better is None else "B is better" if better else "A is better"
