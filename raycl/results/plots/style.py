"""The one style of all pictures, and how they become files: print-ready, told apart by the colour-blind too."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import PercentFormatter

from raycl.addresses import write_file
from raycl.errors import PathError
from raycl.results.statistics import deviation, half_width

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1A1A1A", "#8C6D1F")
"""Okabe and Ito 2008: told apart by the colour-blind too. Beyond these, the line style and the marker change."""
STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
NULL = "#E6E6E6"
INK, RULE, AXIS = "#333333", "#DDDDDD", "#999999"
"""Of words, of the lines of a grid, of axes. A page replaces them where it is dark."""
WIDTH, HEIGHT = 6.8, 3.8
"""Inches: the text width of a paper's page."""
TITLE, LABEL, SMALL = 10.5, 9.0, 8.0
"""Points."""
MARKED = 20
"""Up to so many points a line has a marker at each."""
MOST_NAMES = 18
"""In one column of a legend."""

FileForm = Literal["pdf", "svg", "png"]
FORMS: tuple[FileForm, ...] = get_args(FileForm)
NO_NOTES = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def new_figure(
    title: str,
    width: float = WIDTH,
    height: float = HEIGHT,
    layout: Literal["constrained"] | None = "constrained",
) -> tuple[Figure, Axes]:
    """An empty figure that belongs to nobody's global state; sizes in inches."""
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=TITLE, fontweight="bold", color=INK, pad=8)
    dress(axes)
    return figure, axes


def new_sheet(title: str, width: float, height: float) -> Figure:
    """An empty figure for several small axes; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.suptitle(title, x=0.01, ha="left", fontsize=TITLE, fontweight="bold", color=INK)
    return figure


def dress(axes: Axes) -> None:
    """Axes as all pictures have them: no frame, quiet lines, words of one size."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(AXIS)
    axes.tick_params(colors=INK, labelsize=SMALL, color=AXIS, which="both")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(LABEL)
    axes.set_axisbelow(True)


def look(index: int) -> tuple[str, str, str]:
    """Colour, line style and marker of the index-th series; no two of the first 32 have the same colour and style."""
    turn = index // len(COLOURS)
    return COLOURS[index % len(COLOURS)], STYLES[turn % len(STYLES)], MARKERS[index % len(MARKERS)]


def margin_of(values: Sequence[float] | np.ndarray) -> float:
    """Half-width of the 95 % t-interval of a mean; 0 where it is not defined: of one value, or of equal ones."""
    known = [float(value) for value in values]
    margin = half_width(deviation(known), len(known))
    return 0.0 if math.isnan(margin) else margin


def line(axes: Axes, index: int, name: str, steps: np.ndarray, curves: np.ndarray, marked: bool = True) -> None:
    """The mean of curves ``[seeds, steps]``, and the band of its 95 % t-interval where there are several."""
    colour, style, marker = look(index)
    mean = curves.mean(axis=0)
    shown = marker if marked and len(steps) <= MARKED else None
    axes.plot(steps, mean, style, color=colour, marker=shown, markersize=3.5, linewidth=1.5, label=name)
    if len(curves) > 1:
        margin = np.array([margin_of(column) for column in curves.T])
        axes.fill_between(steps, mean - margin, mean + margin, color=colour, alpha=0.15, linewidth=0)


def legend(axes: Axes) -> Legend | None:
    """Beside the axes, in as many columns as their height asks for; none where nothing is drawn."""
    names = len(axes.get_legend_handles_labels()[1])
    if not names:
        return None
    return axes.legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        labelcolor=INK,
        fontsize=SMALL,
        ncols=-(-names // MOST_NAMES),
    )


def percent(axes: Axes, axis: Literal["x", "y"]) -> None:
    """An axis in per cent, with its grid."""
    (axes.xaxis if axis == "x" else axes.yaxis).set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis=axis, color=RULE, linewidth=0.7)


def in_bounds(axes: Axes, axis: Literal["x", "y"], values: Iterable[float]) -> None:
    """Limits around values that an interval may not widen beyond what a share can be."""
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = max(0.02, 0.06 * (high - low))
    (axes.set_xlim if axis == "x" else axes.set_ylim)(low - room, high + room)


def written(figure: Figure, form: FileForm, dpi: int = 120) -> bytes:
    """The picture as a file's bytes; text of vector files is embedded, as outlines (svg) or with its fonts (pdf).

    Args:
        dpi: of a png, and of what is a raster in the others: the cells of a large matrix.
    """
    data = io.BytesIO()
    notes = {"svg": NO_NOTES, "pdf": {"CreationDate": None}, "png": {}}[form]
    with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "raycl"}):
        figure.savefig(data, format=form, dpi=dpi, metadata=notes)
    return data.getvalue()


def png(figure: Figure, dpi: int = 120) -> bytes:
    """The picture as the bytes of a png."""
    return written(figure, "png", dpi)


def save(figure: Figure, file: str | Path) -> None:
    """Write the picture into a file, in the form that its name ends with.

    Raises:
        PathError: the name ends otherwise, or the file cannot be written.
    """
    path = Path(file)
    form = next((one for one in FORMS if path.suffix.lower() == f".{one}"), None)
    if form is None:
        raise PathError(f"{path}: a picture's file ends with {', '.join(f'.{one}' for one in FORMS)}; rename it")
    write_file(path, written(figure, form, dpi=300))
