"""Accuracy matrices as heat maps, of five tasks or of a thousand; and what the rows of each task were taken for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, PercentFormatter

from raycl.matrix import AccuracyMatrix
from raycl.results.plots.style import INK, LABEL, NULL, SMALL, dress, new_figure, new_sheet

WRITTEN_OUT, SMALL_MAPS = 12, 6
"""Up to so many tasks each cell of a heat map says its figure, alone and among several."""
LIGHT = "#FEFEFE"
"""Of figures on dark cells: white that is no paper's."""
CELL_BY_CELL, SQUARES = 100, 50
"""Up to so many tasks a heat map has a field for each cell; beyond, so many fields on each side."""


def heat_map(matrix: AccuracyMatrix, title: str = "") -> Figure:
    """Rows: after learning task i; columns: evaluated on task j. Cells without a value are grey.

    Of more than :data:`CELL_BY_CELL` tasks, means over squares of tasks are drawn: a cell would be less than a point,
    and of long streams few cells are measured.
    """
    return _map(matrix.accuracy, title, "evaluated on task", "after learning task", _quantity(matrix.num_tasks))


def confusion(shares: np.ndarray, title: str = "") -> Figure:
    """Which task the rows of each task were taken for, of a method that infers it.

    Args:
        shares: ``[tasks, tasks]``, of the rows of task i those that were taken for task j; NaN where nobody counted.
    """
    return _map(shares, title, "taken for task", "rows of task", "share of the rows")


def heat_maps(matrices: Mapping[str, AccuracyMatrix], title: str = "", columns: int = 4) -> Figure:
    """:func:`heat_map` of several matrices of the same stream, small and side by side."""
    count = max(1, len(matrices))
    rows = math.ceil(count / columns)
    figure = new_sheet(title, 1.75 * min(count, columns) + 0.9, 1.95 * rows + 0.5)
    grid = figure.subplots(rows, min(count, columns), squeeze=False, sharex=True, sharey=True)
    places = list(grid.flat)
    image = None
    for number, (axes, (name, matrix)) in enumerate(zip(places, matrices.items(), strict=False)):
        dress(axes)
        image = _draw_cells(axes, matrix.accuracy, written_out=SMALL_MAPS, ticks=3)
        axes.set_title(name, loc="left", fontsize=SMALL, color=INK, pad=3)
        axes.tick_params(labelbottom=number >= count - columns)  # the lowest of each column
    for axes in places[len(matrices) :]:
        axes.set_visible(False)
    figure.supxlabel("evaluated on task", fontsize=LABEL, color=INK)
    figure.supylabel("after learning task", fontsize=LABEL, color=INK)
    if image is not None:
        tasks = max(matrix.num_tasks for matrix in matrices.values())
        _label_bar(figure.colorbar(image, ax=places, shrink=0.8, aspect=30), _quantity(tasks))
    return figure


def mean_matrix(group: Sequence[AccuracyMatrix]) -> AccuracyMatrix:
    """Cell by cell the mean over matrices of one stream, over those that have measured it."""
    return AccuracyMatrix(_mean([one.accuracy for one in group]), _mean([one.untrained for one in group]))


def _mean(cells: Sequence[np.ndarray]) -> np.ndarray:
    stacked = np.stack(cells)
    counts = (~np.isnan(stacked)).sum(axis=0)
    return np.where(counts > 0, np.nan_to_num(stacked).sum(axis=0) / np.maximum(counts, 1), np.nan)


def _map(cells: np.ndarray, title: str, across: str, down: str, quantity: str) -> Figure:
    tasks = len(cells)
    side = min(4.6, 1.7 + 0.36 * tasks)
    width, height = side + 1.85, side + 0.85
    figure, axes = new_figure(title, width, height, layout=None)  # a solved layout doubles the cost of each trial's
    axes.set_position((0.6 / width, 0.48 / height, side / width, side / height))
    image = _draw_cells(axes, cells)
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    strip = figure.add_axes(((0.75 + side) / width, (0.48 + 0.1 * side) / height, 0.14 / width, 0.8 * side / height))
    _label_bar(figure.colorbar(image, cax=strip), quantity)
    return figure


def _draw_cells(axes: Axes, accuracy: np.ndarray, written_out: int = WRITTEN_OUT, ticks: int = 6) -> AxesImage:
    """The cells of a matrix ``[tasks, tasks]``, or squares of them."""
    tasks = len(accuracy)
    shown, size = _squares(accuracy)
    colours = mpl.colormaps["cividis"].with_extremes(bad="none")  # what lies behind is no part of the raster
    axes.set_facecolor(NULL)
    end = size * len(shown) + 0.5
    image = axes.imshow(
        np.ma.masked_invalid(shown),
        cmap=colours,
        vmin=0,
        vmax=1,
        extent=(0.5, end, end, 0.5),
        interpolation="nearest",
    )
    axes.set_xlim(0.5, tasks + 0.5)  # the last square may reach beyond the last task
    axes.set_ylim(tasks + 0.5, 0.5)
    if tasks <= written_out:
        _write_cells(axes, accuracy)
    if tasks <= WRITTEN_OUT:
        axes.set_xticks(range(1, tasks + 1))
        axes.set_yticks(range(1, tasks + 1))
        for edge in np.arange(1.5, tasks):
            axes.axhline(edge, color="white", linewidth=1)
            axes.axvline(edge, color="white", linewidth=1)
    else:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=ticks, integer=True, min_n_ticks=2))
    axes.tick_params(length=0 if tasks <= WRITTEN_OUT else 3)
    axes.spines[:].set_visible(False)
    return image


def _squares(accuracy: np.ndarray) -> tuple[np.ndarray, int]:
    """Means ``[squares, squares]`` over the cells that were measured in each square of tasks, and a square's side."""
    tasks = len(accuracy)
    size = _side(tasks)
    if size == 1:
        return accuracy, 1
    starts = np.arange(0, tasks, size)

    def sums(cells: np.ndarray) -> np.ndarray:
        return np.asarray(np.add.reduceat(np.add.reduceat(cells, starts, axis=0), starts, axis=1))

    measured = sums((~np.isnan(accuracy)).astype(float))
    return np.where(measured > 0, sums(np.nan_to_num(accuracy)) / np.maximum(measured, 1), np.nan), size


def _side(tasks: int) -> int:
    """How many tasks a field of a heat map takes together, on each side."""
    return 1 if tasks <= CELL_BY_CELL else math.ceil(tasks / SQUARES)


def _quantity(tasks: int) -> str:
    """What the colours of a matrix of so many tasks stand for."""
    size = _side(tasks)
    return "accuracy" + f", mean of the cells\nmeasured in {size} x {size} tasks" * (size > 1)


def _label_bar(bar: Colorbar, quantity: str) -> None:
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.ax.tick_params(colors=INK, labelsize=SMALL)
    bar.set_label(quantity, color=INK, fontsize=LABEL)
    bar.outline.set_visible(False)


def _write_cells(axes: Axes, accuracy: np.ndarray) -> None:
    for (learned, evaluated), value in np.ndenumerate(accuracy):
        if np.isfinite(value):
            colour = LIGHT if value < 0.55 else "black"
            figures = f"{100 * value:.0f}" if len(accuracy) > 6 else f"{100 * value:.1f}"
            axes.text(evaluated + 1, learned + 1, figures, ha="center", va="center", color=colour, fontsize=SMALL - 1)
