"""Pictures of accuracy matrices and comparisons, as matplotlib figures that belong to nobody's global state."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, PercentFormatter

from raycl.matrix import AccuracyMatrix
from raycl.results import statistics
from raycl.results.tables import Comparison

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
"""Okabe and Ito 2008: told apart by the colour-blind too. Beyond these, the line style changes."""
STYLES = ("-", "--", ":", "-.")
NULL = "#E6E6E6"
INK = "#333333"
WRITTEN_OUT = 12
"""Up to so many tasks each cell of a heat map says its figure."""
CELL_BY_CELL, SQUARES = 100, 50
"""Up to so many tasks a heat map has a field for each cell; beyond, so many fields on each side."""


def heat_map(matrix: AccuracyMatrix, title: str = "") -> Figure:
    """Rows: after learning task i; columns: evaluated on task j. Cells without a value are grey.

    Of more than :data:`CELL_BY_CELL` tasks, means over squares of tasks are drawn: a cell would be less than a point,
    and of long streams few cells are measured.
    """
    tasks = matrix.num_tasks
    side = min(6.4, 2.6 + 0.42 * tasks)
    width, height = side + 1.9, side + 1.0
    figure, axes = _figure(
        width, height, title, layout=None
    )  # a solved layout doubles its cost, and every trial has one
    axes.set_position((0.75 / width, 0.55 / height, side / width, side / height))
    image = _draw_cells(axes, matrix.accuracy)
    axes.set_xlabel("evaluated on task")
    axes.set_ylabel("after learning task")
    strip = figure.add_axes(((0.95 + side) / width, (0.55 + 0.1 * side) / height, 0.16 / width, 0.8 * side / height))
    _label_bar(figure.colorbar(image, cax=strip), tasks)
    return figure


def heat_maps(matrices: Mapping[str, AccuracyMatrix], title: str = "", columns: int = 4) -> Figure:
    """:func:`heat_map` of several matrices of the same stream, small and side by side."""
    count = max(1, len(matrices))
    rows = math.ceil(count / columns)
    figure = Figure(
        figsize=(2.4 * min(count, columns) + 1.3, 2.6 * rows + 0.5), layout="constrained", facecolor="white"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    grid = figure.subplots(rows, min(count, columns), squeeze=False, sharex=True, sharey=True)
    places = list(grid.flat)
    image = None
    for number, (axes, (name, matrix)) in enumerate(zip(places, matrices.items(), strict=False)):
        image = _draw_cells(axes, matrix.accuracy)
        axes.set_title(name, loc="left", fontsize=10, color=INK)
        axes.tick_params(colors=INK, labelsize=8, labelbottom=number >= count - columns)  # the lowest of each column
    for axes in places[len(matrices) :]:
        axes.set_visible(False)
    figure.supxlabel("evaluated on task", fontsize=10, color=INK)
    figure.supylabel("after learning task", fontsize=10, color=INK)
    if image is not None:
        tasks = max(matrix.num_tasks for matrix in matrices.values())
        _label_bar(figure.colorbar(image, ax=places, shrink=0.8), tasks)
    return figure


def _draw_cells(axes: Axes, accuracy: np.ndarray) -> AxesImage:
    """The cells of a matrix ``[tasks, tasks]``, or squares of them."""
    tasks = len(accuracy)
    shown, size = _squares(accuracy)
    colours = mpl.colormaps["cividis"].with_extremes(bad=NULL)
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
    if tasks <= WRITTEN_OUT:
        _write_cells(axes, accuracy)
        axes.set_xticks(range(1, tasks + 1))
        axes.set_yticks(range(1, tasks + 1))
        for edge in np.arange(1.5, tasks):
            axes.axhline(edge, color="white", linewidth=1)
            axes.axvline(edge, color="white", linewidth=1)
    else:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=3))
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


def _label_bar(bar: Colorbar, tasks: int) -> None:
    """What the colours of a matrix of so many tasks stand for."""
    size = _side(tasks)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.set_label("accuracy" + f", mean of the cells\nmeasured in {size} x {size} tasks" * (size > 1), color=INK)
    bar.outline.set_visible(False)


def accuracy_curves(matrices: Mapping[str, Sequence[AccuracyMatrix]], title: str = "") -> Figure:
    """Average accuracy over the tasks learned so far, against their number: mean over seeds, band of one deviation.

    A method with a single row (joint training) is a dashed line at its value.
    """
    figure, axes = _figure(7.6, 4.4, title)
    tasks = max((matrix.num_tasks for group in matrices.values() for matrix in group), default=1)
    for index, (name, group) in enumerate(matrices.items()):
        curves = np.array([[matrix.average_accuracy(task) for task in range(matrix.num_tasks)] for matrix in group])
        known = np.isfinite(curves).all(axis=0)
        steps = np.flatnonzero(known) + 1
        if len(steps) == 1 and tasks > 1:
            axes.axhline(curves[:, known].mean(), color=INK, linestyle=(0, (7, 3)), linewidth=1.3, label=name)
            continue
        _line(axes, index, name, steps, curves[:, known], marker="o" if tasks <= 20 else None)
    axes.set_xlim(1 - 0.02 * tasks, tasks + 0.02 * tasks)
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.set_xlabel("tasks learned")
    axes.set_ylabel("average accuracy over the tasks learned")
    _percent_grid(axes, axes.yaxis)
    if matrices:
        _legend(axes)
    return figure


def task_curves(curves: Mapping[str, np.ndarray], label: str, title: str = "") -> Figure:
    """A number of each task against the tasks, as :mod:`raycl.results.trends` reads them off a results folder.

    Mean over the trials of a name, band of one deviation.

    Args:
        curves: name -> ``[trials, tasks]``.
        label: of the number.
    """
    figure, axes = _figure(7.6, 4.4, title)
    for index, (name, group) in enumerate(curves.items()):
        _line(axes, index, name, np.arange(1, group.shape[1] + 1), group)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.yaxis.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("task")
    axes.set_ylabel(label)
    if curves:
        _legend(axes)
    return figure


def inside_curves(inside: pa.Table, names: Mapping[str, str], task: int = 0, title: str = "") -> Figure:
    """Accuracy on one task while it and every later task is learned.

    Mean over the trials of a name, band of one deviation. A task that is learned as well as ever afterwards, and drops
    on the way, shows its stability gap here and in no accuracy matrix.

    Args:
        inside: :func:`raycl.results.reading.read_inside`.
        names: trial -> the name under which it counts.
    """
    figure, axes = _figure(7.6, 4.4, title)
    seen = inside.filter(pc.field("eval_task") == task)
    for index, name in enumerate(dict.fromkeys(names.values())):
        curves = []
        for trial in (trial for trial, own in names.items() if own == name):
            progress, accuracy = _inside_curve(seen.filter(pc.field("trial") == trial))
            curves += [accuracy] if len(accuracy) else []
        if not curves:
            continue
        _line(axes, index, name, progress, np.array(curves))
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.xaxis.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_xlabel("tasks learned; between two of them by share of the updates")
    axes.set_ylabel(f"accuracy on task {task + 1}")
    _percent_grid(axes, axes.yaxis)
    _legend(axes)
    return figure


def _inside_curve(points: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Of one trial and evaluated task, ``[points]`` each: tasks learned by then, as a fraction, and accuracies."""
    learned, update = points["train_task"].to_numpy(), points["update"].to_numpy()
    last = {task: update[learned == task].max() for task in np.unique(learned)}
    share = update / np.maximum([last[task] for task in learned], 1)
    return learned + share, points["correct"].to_numpy() / points["total"].to_numpy()


def bars(comparison: Comparison, title: str = "") -> Figure:
    """Final average accuracy per method, in the table's order, with one deviation over seeds; hatched: upper bounds."""
    scored = [line for line in comparison.lines if "average_accuracy" in line.metrics]
    figure, axes = _figure(7.6, 1.3 + 0.38 * max(1, len(scored)), title)
    for at, line in enumerate(scored):
        spread = line.metrics["average_accuracy"]
        axes.barh(
            at,
            spread.mean,
            height=0.62,
            color="white" if line.upper_bound else COLOURS[0],
            edgecolor=COLOURS[0],
            hatch="////" if line.upper_bound else None,
            alpha=1.0 if line.scored_on == "test" else 0.45,
        )
        deviation = spread.std if np.isfinite(spread.std) else 0.0
        if deviation:
            axes.errorbar(spread.mean, at, xerr=deviation, color=INK, capsize=3, linewidth=1.2)
        axes.text(spread.mean + deviation + 0.012, at, f"{100 * spread.mean:.1f}", va="center", color=INK, fontsize=9)
    names = [
        line.key + (" (upper bound)" if line.upper_bound else "") + (" (validation)" * (line.scored_on == "validation"))
        for line in scored
    ]
    axes.set_yticks(range(len(scored)), names)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.set_xticks(np.arange(0, 1.01, 0.2))
    axes.set_xlabel("average accuracy after the last task")
    _percent_grid(axes, axes.xaxis)
    return figure


def expected_best(comparison: Comparison, title: str = "") -> Figure:
    """The validation metric of the best point to expect after so many points of each method's search.

    As Dodge et al. 2019 estimate it (:func:`raycl.results.statistics.expected_best`). A curve that still rises where it
    ends says that a longer search would have found better points; methods are to be compared at equal numbers.
    """
    figure, axes = _figure(7.6, 4.4, title)
    found = {line.key: line.search.values for line in comparison.lines if line.search and line.search.values}
    for index, (key, values) in enumerate(found.items()):
        colour, style = _look(index)
        steps, best = np.arange(1, len(values) + 1), statistics.expected_best(values)
        axes.plot(steps, best, style, color=colour, marker="o", markersize=4, linewidth=1.8, label=key)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.set_xlabel("distinct points tried, in random order")
    axes.set_ylabel("expected best on validation data")
    _percent_grid(axes, axes.yaxis)
    if found:
        _legend(axes)
    return figure


Price = Literal["compute", "memory", "compression"]
COSTS: dict[Price, tuple[tuple[str, ...], str]] = {
    "compute": (("gradient_examples",), "examples backward through networks, all tasks"),
    "memory": (("state_bytes", "buffer_bytes"), "bytes kept after the last task, replay memory included"),
    "compression": (("measure.compression_ratio",), "trainable weights over those of one target network"),
}
"""What accuracy is paid with: columns of the table of trials, whose sum it is, and in words."""


def trade_off(trials: pa.Table, cost: Price = "compute", title: str = "") -> Figure:
    """Final average accuracy against what it costs: a point a method, bars of one deviation over seeds.

    The variants of a sweep, and the points of a search with several objectives, are points of one line. Filled are
    those of the Pareto set: none is better at no more cost.

    Args:
        trials: :func:`raycl.results.reading.read_trials`; the finished trials of the final phase are taken.
        cost: the axis; ``compression`` shows the methods that generate weights, as others have no ratio.
    """
    figure, axes = _figure(7.6, 4.4, title)
    known, label = COSTS[cost]
    columns = [name for name in known if name in trials.column_names]
    final = trials.filter((pc.field("phase") == "final") & (pc.field("status") == "finished"))
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for row in final.select(["alias", "variant", "average_accuracy", "spec", *columns]).to_pylist():
        paid = [row[name] for name in columns if row[name] is not None]
        if not paid:
            continue
        spent = sum(paid)
        point = json.dumps(json.loads(row["spec"])["point"], sort_keys=True)
        found.setdefault((row["alias"], row["variant"], point), []).append((spent, row["average_accuracy"]))
    points = {key: np.array(values, dtype=float) for key, values in found.items()}  # [seeds, 2]
    means = {key: values.mean(axis=0) for key, values in points.items()}
    best = {key for key, mean in means.items() if not any(_beats(other, mean) for other in means.values())}
    for index, alias in enumerate(dict.fromkeys(alias for alias, *_ in points)):
        own = sorted((key for key in points if key[0] == alias), key=lambda key: float(means[key][0]))
        colour, style = _look(index)
        axes.plot(*np.array([means[key] for key in own]).T, style, color=colour, linewidth=1.2, label=alias)
        for key in own:
            spread = points[key][:, 1].std(ddof=1) if len(points[key]) > 1 else 0.0
            inside = colour if key in best else "white"
            paid, reached = means[key]
            axes.errorbar(paid, reached, yerr=spread, fmt="o", color=colour, markerfacecolor=inside, capsize=3)
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("average accuracy after the last task")
    _percent_grid(axes, axes.yaxis)
    if points:
        _legend(axes)
    return figure


def _beats(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether one ``[cost, accuracy]`` is no worse in both, and better in one."""
    return bool(one[0] <= other[0] and one[1] >= other[1] and (one != other).any())


def png(figure: Figure, dpi: int = 120) -> bytes:
    """The picture as a file's bytes."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=dpi)
    return data.getvalue()


def _figure(
    width: float, height: float, title: str, layout: Literal["constrained"] | None = "constrained"
) -> tuple[Figure, Axes]:
    """An empty figure in the house style; sizes in inches."""
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def _line(axes: Axes, index: int, name: str, steps: np.ndarray, curves: np.ndarray, marker: str | None = None) -> None:
    """The mean of curves ``[seeds, steps]``, and a band of one deviation where there are several."""
    colour, style = _look(index)
    mean = curves.mean(axis=0)
    axes.plot(steps, mean, style, color=colour, marker=marker, markersize=4, linewidth=1.8, label=name)
    if len(curves) > 1:
        spread = curves.std(axis=0, ddof=1)
        axes.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)


def _look(index: int) -> tuple[str, str]:
    """Colour and line style of the index-th series."""
    return COLOURS[index % len(COLOURS)], STYLES[index // len(COLOURS) % len(STYLES)]


def _legend(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, labelcolor=INK)


def _percent_grid(axes: Axes, axis: mpl.axis.Axis) -> None:
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)


def _write_cells(axes: Axes, accuracy: np.ndarray) -> None:
    for (learned, evaluated), value in np.ndenumerate(accuracy):
        if np.isfinite(value):
            colour = "white" if value < 0.55 else "black"
            figures = f"{100 * value:.0f}" if len(accuracy) > 6 else f"{100 * value:.1f}"
            axes.text(evaluated + 1, learned + 1, figures, ha="center", va="center", color=colour, fontsize=9)
