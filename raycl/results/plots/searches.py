"""What searches have found: the best of n points to expect, slices through their spaces, and what mattered in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raycl.results import statistics
from raycl.results.outcomes import Outcome
from raycl.results.plots.style import (
    AXIS,
    COLOURS,
    INK,
    RULE,
    SMALL,
    WIDTH,
    dress,
    legend,
    look,
    new_figure,
    new_sheet,
    percent,
)
from raycl.results.searched import told
from raycl.results.tables import Comparison
from raycl.spec.distribution import Conditional, Distribution
from raycl.spec.space import Choice, LogRandInt, LogUniform

Ranges = Mapping[str, Distribution]
FEWEST_POINTS = 10
"""Finished points below which nothing is said of importance: a forest over fewer of them tells noise."""
TREES, FOREST_SEED = 64, 0
MOST_CHARACTERS = 22


def expected_best(comparison: Comparison, title: str = "") -> Figure:
    """The validation metric of the best point to expect after so many points of each method's search.

    As Dodge et al. 2019 estimate it (:func:`raycl.results.statistics.expected_best`). A curve that still rises where it
    ends says that a longer search would have found better points; methods are to be compared at equal numbers.
    """
    figure, axes = new_figure(title)
    found = {line.key: line.search.values for line in comparison.lines if line.search and line.search.values}
    for index, (key, values) in enumerate(found.items()):
        colour, style, marker = look(index)
        steps, best = np.arange(1, len(values) + 1), statistics.expected_best(values)
        axes.plot(steps, best, style, color=colour, marker=marker, markersize=3.5, linewidth=1.5, label=key)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.set_xlabel("distinct points tried, in random order")
    axes.set_ylabel("expected best on validation data")
    percent(axes, "y")
    legend(axes)
    return figure


def slices(searches: Mapping[str, pa.Table], spaces: Mapping[str, Ranges], title: str = "", columns: int = 3) -> Figure:
    """What the points of each search came to on validation data, against each searched value; filled: the best.

    Axes are those of the ranges, logarithmic where they were searched so. Points that were stopped early, or failed,
    have no value and are marks at the foot.

    Args:
        searches: key of a method -> its points, as :attr:`raycl.results.view.Results.searches` has them.
        spaces: key -> dotted path -> what it was drawn from.
    """
    asked = [(key, path) for key, points in searches.items() if len(points) for path in spaces[key]]
    figure, places = _grid(len(asked), columns, title)
    for axes, (key, path) in zip(places, asked, strict=False):
        _slice(axes, searches[key], path, spaces[key][path])
        axes.set_title(key, loc="left", fontsize=SMALL, color=INK, pad=3)
        axes.set_xlabel(_short(path))
        percent(axes, "y")
    figure.supylabel("on validation data", fontsize=SMALL + 1, color=INK)
    return figure


def _slice(axes: Axes, points: pa.Table, path: str, distribution: Distribution) -> None:
    found = distribution.inner if isinstance(distribution, Conditional) else distribution
    acting = points.filter(pc.is_valid(points[path]))
    values, reached = acting[path].to_pylist(), acting["value"].to_pylist()
    if isinstance(found, Choice):
        names = [told(choice) for choice in found.choices]
        across: Sequence[float] = [names.index(told(value)) for value in values]
        axes.set_xticks(range(len(names)), names, rotation=30 if sum(map(len, names)) > MOST_CHARACTERS else 0)
        axes.set_xlim(-0.5, len(names) - 0.5)
    else:
        across = values
        _range(axes, found)
    ended = [(x, y) for x, y in zip(across, reached, strict=True) if y is not None]
    best = max(ended, key=lambda point: point[1], default=None)
    axes.plot(*np.array(ended).reshape(-1, 2).T, "o", color=COLOURS[0], markerfacecolor="white", markersize=4)
    if best is not None:
        axes.plot(*best, "o", color=COLOURS[1], markersize=5)
    without = [x for x, y in zip(across, reached, strict=True) if y is None]
    axes.plot(without, [0.02] * len(without), "x", color=AXIS, markersize=4, transform=axes.get_xaxis_transform())


def _range(axes: Axes, found: Distribution) -> None:
    """The axis of a range, with some room at its ends."""
    (_, low), (_, high) = found.ends
    if isinstance(found, (LogUniform, LogRandInt)):
        axes.set_xscale("log")
        share = (high / low) ** 0.04
        axes.set_xlim(low / share, high * share)
    else:
        axes.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))


def tells_importance(points: pa.Table, space: Ranges) -> bool:
    """Whether enough points have finished, and otherwise, for :func:`importances` to say anything."""
    values = points["value"].drop_null().to_pylist()
    return len(values) >= FEWEST_POINTS and not math.isnan(statistics.deviation(values)) and len(_always(space)) > 1


def _always(space: Ranges) -> Ranges:
    """What is searched whatever else is chosen."""
    return {path: found for path, found in space.items() if not isinstance(found, Conditional)}


def importances(points: pa.Table, space: Ranges) -> dict[str, float]:
    """What share of the variance of the validation metric over a search's space is each value's own.

    Optuna's functional ANOVA (Hutter et al. 2014) over the points that finished, most important first; empty where they
    are too few, or all alike. Values that are searched beside some others alone are left out: most points lack them.
    """
    if not tells_importance(points, space):
        return {}
    ended, always = points.filter(pc.is_valid(points["value"])), _always(space)
    import optuna  # late: it takes a tenth of a second, and in a notebook it warns of a missing package

    from raycl.results.trackers.optuna_terms import frozen, new_study, optuna_space

    study = new_study()
    for row in ended.select([*always, "value"]).to_pylist():
        value = row.pop("value")
        study.add_trial(frozen(Outcome(row, "finished", value), optuna_space(always)))
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=FOREST_SEED)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(always)))


def importance(
    searches: Mapping[str, pa.Table], spaces: Mapping[str, Ranges], title: str = "", columns: int = 2
) -> Figure:
    """:func:`importances` of each search of two values or more as bars; where there are too few points, it says so."""
    asked = [key for key, points in searches.items() if len(spaces[key]) > 1 and len(points)]
    figure, places = _grid(len(asked), columns, title)
    for axes, key in zip(places, asked, strict=False):
        found = importances(searches[key], spaces[key])
        axes.set_title(key, loc="left", fontsize=SMALL, color=INK, pad=3)
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of the variance")
        percent(axes, "x")
        if found:
            axes.barh(range(len(found)), list(found.values()), color=COLOURS[0], height=0.6)
            axes.set_yticks(range(len(found)), [_short(path) for path in found])
            axes.invert_yaxis()
        else:
            axes.set_yticks([])
            axes.text(0.5, 0.5, _too_few(searches[key]), ha="center", va="center", fontsize=SMALL, color=INK)
            axes.set_ylim(0, 1)
    return figure


def _too_few(points: pa.Table) -> str:
    ended = len(points) - points["value"].null_count
    return f"too few points: {ended} of {FEWEST_POINTS}" if ended < FEWEST_POINTS else "all points came to the same"


def _grid(count: int, columns: int, title: str) -> tuple[Figure, list[Axes]]:
    """Small axes side by side."""
    across = max(1, min(count, columns))
    rows = max(1, -(-count // across))
    figure = new_sheet(title, WIDTH, 1.75 * rows + 0.4)
    places = list(figure.subplots(rows, across, squeeze=False).flat)
    for number, axes in enumerate(places):
        dress(axes)
        axes.set_visible(number < count)
        axes.grid(axis="y", color=RULE, linewidth=0.7)
    return figure, places


def _short(path: str) -> str:
    """A dotted path that fits below small axes: its last part where it is long."""
    return path if len(path) <= MOST_CHARACTERS + 6 else path.rpartition(".")[2]
