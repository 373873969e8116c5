"""Methods beside each other: how much they keep, how sure that is, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from raycl.matrix import AccuracyMatrix
from raycl.results.comparison import Line
from raycl.results.layout import human_bytes
from raycl.results.plots.style import (
    AXIS,
    COLOURS,
    INK,
    RULE,
    SMALL,
    WIDTH,
    in_bounds,
    legend,
    look,
    margin_of,
    new_figure,
    percent,
)
from raycl.results.tables import Comparison
from raycl.spec.entry import entry_key


def bars(comparison: Comparison, title: str = "") -> Figure:
    """Final average accuracy per method, in the table's order, with the mean's 95 % t-interval; hatched: upper
    bounds."""
    scored = [line for line in comparison.lines if "average_accuracy" in line.metrics]
    figure, axes = _listed([_named(line) for line in scored], title)
    for at, line in enumerate(scored):
        mean = line.metrics["average_accuracy"].mean
        axes.barh(
            at,
            mean,
            height=0.62,
            color="white" if line.upper_bound else COLOURS[0],
            edgecolor=COLOURS[0],
            hatch="////" if line.upper_bound else None,
            alpha=1.0 if line.scored_on == "test" else 0.45,
        )
        margin = margin_of(list(line.by_seed.values()))
        if margin:
            axes.errorbar(mean, at, xerr=margin, color=INK, capsize=2.5, linewidth=1)
        axes.text(min(mean + margin, 1.0) + 0.012, at, f"{100 * mean:.1f}", va="center", color=INK, fontsize=SMALL)
    axes.set_xlim(0, 1.08)
    axes.set_xticks(np.arange(0, 1.01, 0.2))
    axes.set_xlabel("average accuracy after the last task")
    percent(axes, "x")
    return figure


def differences(comparison: Comparison, title: str = "", shown: Callable[[str], bool] = lambda key: True) -> Figure:
    """Each method's average accuracy less that of its variant's baseline, over the seeds that both have, with the 95 %
    t-interval of the difference.

    Filled are those that the seeds tell apart from the baseline, with Holm's correction: intervals are of one
    comparison each, so that one beside zero may still be empty. Upper bounds are grey, as they are compared with
    nothing.

    Args:
        shown: whether the line of a key is drawn.
    """
    found = [
        (line, base, base.against[line.key])
        for line in comparison.lines
        if (base := comparison.baselines.get(line.family)) is not None and line.key in base.against and shown(line.key)
    ]
    figure, axes = _listed([_named(line) for line, _, _ in found], title)
    for at, (line, _, against) in enumerate(found):
        colour = AXIS if line.upper_bound else COLOURS[0]
        margin = 0.0 if np.isnan(against.difference.margin) else against.difference.margin
        inside = colour if against.apart else "white"
        axes.errorbar(
            against.difference.mean, at, xerr=margin, fmt="o", color=colour, markerfacecolor=inside, capsize=2.5
        )
    axes.axvline(0, color=INK, linewidth=0.8)
    names = " or ".join(dict.fromkeys(base.key for _, base, _ in found))
    axes.set_xlabel(f"average accuracy less that of {names}, paired by seed" if names else "")
    percent(axes, "x")
    return figure


def keeping(matrices: Mapping[str, Sequence[AccuracyMatrix]], title: str = "") -> Figure:
    """Learning against keeping: accuracy right after a task was learned, and backward transfer, a point a method with
    the 95 % t-intervals of both means.

    To the right is plasticity, up is stability. Along a grey line average accuracy is the same, as it is their sum
    (ACC = LA + (T - 1) / T BWT); methods that were not measured task by task are left out.
    """
    figure, axes = new_figure(title)
    tasks, every = 2, []
    for index, (name, group) in enumerate(matrices.items()):
        points = np.array([[one.learning_accuracy(), one.backward_transfer()] for one in group])  # [seeds, 2]
        points = points[np.isfinite(points).all(axis=1)]
        if not len(points):
            continue
        tasks = group[0].num_tasks
        colour, _, marker = look(index)
        mean, margins = points.mean(axis=0), [margin_of(column) for column in points.T]
        x, y = mean
        axes.errorbar(x, y, xerr=margins[0], yerr=margins[1], fmt=marker, color=colour, capsize=2.5, label=name)
        every.append(mean)
    means = np.array(every).reshape(-1, 2)
    in_bounds(axes, "x", means[:, 0])
    in_bounds(axes, "y", [*means[:, 1], 0.0])
    _equal_accuracy(axes, tasks)
    axes.set_xlabel("learning accuracy: how well tasks are learned")
    axes.set_ylabel("backward transfer: how they are kept")
    percent(axes, "x")
    percent(axes, "y")
    axes.grid(visible=False)
    legend(axes)
    return figure


def _equal_accuracy(axes: Axes, tasks: int) -> None:
    """Lines on which average accuracy is the same, as far as they cross the axes."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    share = (tasks - 1) / tasks
    for accuracy in np.arange(0.1, 1.0, 0.1):
        ends = np.array([left, right])
        heights = (accuracy - ends) / share
        axes.plot(ends, heights, color=RULE, linewidth=0.8, zorder=0, label="_equal average accuracy")
        if low < heights[1] < high:
            told = f"{100 * accuracy:.0f} %"
            axes.text(right, heights[1], told, color=AXIS, fontsize=SMALL - 1, ha="right", va="bottom")
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


Price = Literal["compute", "memory", "compression"]
PRICES: tuple[Price, ...] = get_args(Price)
COSTS: dict[Price, tuple[tuple[str, ...], str]] = {
    "compute": (("gradient_examples",), "examples backward through networks, all tasks"),
    "memory": (("state_bytes", "buffer_bytes"), "bytes kept after the last task, replay memory included"),
    "compression": (("measure.compression_ratio",), "trainable weights over those of one target network"),
}
"""What accuracy is paid with: columns of the table of trials, whose sum it is, and in words."""


def trade_off(
    trials: pa.Table, cost: Price = "compute", title: str = "", owners: Mapping[str, str] | None = None
) -> Figure:
    """Final average accuracy against what it costs: a point a method, with the mean's 95 % t-interval over seeds.

    The variants of a sweep, and the points of a search with several objectives, are points of one line. Filled are
    those of the Pareto set: none is better at no more cost. Upper bounds, which are grey, stand outside: they see data
    that others do not.

    Args:
        trials: :func:`raycl.results.reading.read_trials`; the finished trials of the final phase are taken.
        cost: the axis; ``compression`` shows the methods that generate weights, as others have no ratio.
        owners: trial -> the key of the method that it counts for; default: the one that ran it first.
    """
    figure, axes = new_figure(title)
    points = _paid(trials, COSTS[cost][0], owners or {})
    means = {key: values.mean(axis=0) for key, values in points.items()}
    bounds = _upper_bounds(trials)
    rivals = {key: mean for key, mean in means.items() if key[0] not in bounds}
    best = {key for key, mean in rivals.items() if not any(_beats(other, mean) for other in rivals.values())}
    for index, alias in enumerate(dict.fromkeys(alias for alias, *_ in points)):
        own = sorted((key for key in points if key[0] == alias), key=lambda key: float(means[key][0]))
        colour, style, marker = look(index)
        colour = AXIS if alias in bounds else colour
        name = f"{alias} (upper bound)" if alias in bounds else alias
        line = np.array([means[key] for key in own]).T
        axes.plot(*line, style, color=colour, marker=marker, markersize=6, linewidth=1.2, label=name)
        for key in own:
            inside = colour if key in best else "white"
            paid, reached = means[key]
            margin = margin_of(points[key][:, 1])
            axes.errorbar(paid, reached, yerr=margin, fmt=marker, color=colour, markerfacecolor=inside, capsize=2.5)
    in_bounds(axes, "y", [mean[1] for mean in means.values()])
    _paid_axis(axes, cost)
    axes.set_xlabel(COSTS[cost][1])
    axes.set_ylabel("average accuracy after the last task")
    percent(axes, "y")
    legend(axes)
    return figure


def _paid(trials: pa.Table, known: Sequence[str], owners: Mapping[str, str]) -> dict[tuple[str, str, str], np.ndarray]:
    """(alias, variant, point) -> ``[seeds, 2]``: what its final trials have cost, and their accuracy."""
    columns = [name for name in known if name in trials.column_names]
    final = trials.filter((pc.field("phase") == "final") & (pc.field("status") == "finished"))
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for row in final.select(["trial", "alias", "variant", "average_accuracy", "spec", *columns]).to_pylist():
        paid = [row[name] for name in columns if row[name] is not None]
        if paid:
            point = json.dumps(json.loads(row["spec"])["point"], sort_keys=True)
            variant, _, alias = owners.get(row["trial"], entry_key(row["variant"], row["alias"])).rpartition("/")
            found.setdefault((alias, variant, point), []).append((sum(paid), row["average_accuracy"]))
    order = list(dict.fromkeys(owners.values()))
    keys = sorted(found, key=lambda key: order.index(entry_key(key[1], key[0])) if owners else 0)
    return {key: np.array(found[key], dtype=float) for key in keys}


def _upper_bounds(trials: pa.Table) -> set[str]:
    """Names of the methods that see data of other tasks."""
    if "upper_bound" not in trials.column_names:
        return set()
    return set(trials.filter(pc.field("upper_bound"))["alias"].to_pylist())


def _paid_axis(axes: Axes, cost: Price) -> None:
    """Logarithmic, with figures that are read at a glance."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    several = LogLocator(subs=(1.0,) if high > 1000 * low else (1.0, 2.0, 5.0))
    axes.xaxis.set_major_locator(several if high > 5 * low else MaxNLocator(5))
    units: dict[Price, Callable[[float], str]] = {"memory": human_bytes, "compute": _human_count}
    told = units.get(cost, "{:g}".format)
    axes.xaxis.set_major_formatter(lambda value, _: told(value))
    axes.xaxis.set_minor_formatter("")


def _human_count(count: float) -> str:
    """``"2.5 M"``."""
    for unit in ("", " k", " M", " G"):
        if count < 999.5:
            return f"{count:g}{unit}"
        count /= 1000
    return f"{count:g} T"


def _beats(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether one ``[cost, accuracy]`` is no worse in both, and better in one."""
    return bool(one[0] <= other[0] and one[1] >= other[1] and (one != other).any())


def _listed(names: Sequence[str], title: str) -> tuple[Figure, Axes]:
    """Axes with a name for each row, from above."""
    figure, axes = new_figure(title, WIDTH, 0.95 + 0.27 * max(1, len(names)))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def _named(line: Line) -> str:
    return line.key + " (upper bound)" * line.upper_bound + " (validation)" * (line.scored_on == "validation")
