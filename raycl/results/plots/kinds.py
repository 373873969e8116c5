"""The pictures that results folders have, by name: what each shows, and what it needs to be recorded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from raycl.errors import StoreError, UnknownName, nearest
from raycl.matrix import AccuracyMatrix
from raycl.results.plots import curves, matrices, methods, searches
from raycl.results.trends import online_curves
from raycl.results.view import Results

INFERRED = re.compile(r"inferred\.(\d+)\.(\d+)")
"""Of a method's own measures: the share of the rows of one task, from 1, that it took for another."""
NO_TEST = "no final trial has finished; let the sweep run to its end"
NO_ROWS = "no method was measured task by task; leave out evaluation.every: end"
NO_SEARCH = "no search trial has finished; add search: {trials: 20} and a range to a method's option"


class NothingToDraw(StoreError):
    """A folder holds nothing of what a picture shows; the message says what would record it."""


@dataclass(frozen=True)
class Shown:
    """Results, or the part of them that some methods have.

    Attributes:
        only: names of methods (alias, or key of the line) or of variants; empty: all.
    """

    results: Results
    only: tuple[str, ...] = ()

    def has(self, key: str) -> bool:
        return not self.only or bool({key, *_parts(key)} & {*self.only})

    @property
    def compared(self) -> Mapping[str, Sequence[AccuracyMatrix]]:
        return {key: group for key, group in self.results.compared.items() if self.has(key)}

    @property
    def owners(self) -> Mapping[str, str]:
        """Trial -> the key of its line."""
        return {trial: key for key, own in self.results.methods.items() if self.has(key) for trial in own}


@dataclass(frozen=True)
class Kind:
    """One picture.

    Attributes:
        shows: in a sentence.
        draw: raises :class:`NothingToDraw` where the results hold nothing of it.
    """

    shows: str
    draw: Callable[[Shown, str], Figure]


def draw(results: Results, kind: str, only: Sequence[str] = (), title: str | None = None) -> Figure:
    """A picture of results.

    Args:
        kind: a name of :data:`PICTURES`.
        only: names of the methods, or variants, to draw; default: all.
        title: default: the sweep's name.

    Raises:
        UnknownName: no picture is called so, or no method; the message lists what there is.
        NothingToDraw: the results hold nothing of it.
    """
    if kind not in PICTURES:
        known = "\n".join(f"  {name:<13} {one.shows}" for name, one in PICTURES.items())
        raise UnknownName(f"no picture is called {kind!r}{nearest(kind, PICTURES)}; there are\n{known}")
    keys = [line.key for line in results.table.lines]
    for name in only:
        if not any(name in (key, *_parts(key)) for key in keys):
            raise UnknownName(
                f"no method or variant is called {name!r}{nearest(name, keys)} (there are: {', '.join(keys)})"
            )
    shown = Shown(results, tuple(only))
    return PICTURES[kind].draw(shown, results.table.sweep if title is None else title)


def _parts(key: str) -> tuple[str, str]:
    """The variant and the alias of a line."""
    variant, _, alias = key.rpartition("/")
    return variant, alias


def _needs(found: object, kind: str, why: str) -> None:
    if not found:
        raise NothingToDraw(f"nothing to draw as {kind}: {why}")


def _matrix(shown: Shown, title: str) -> Figure:
    _needs(shown.compared, "matrix", NO_TEST)
    means = {key: matrices.mean_matrix(group) for key, group in shown.compared.items()}
    if len(means) == 1:
        ((key, matrix),) = means.items()
        return matrices.heat_map(matrix, f"{title}: {key}" if title else key)
    return matrices.heat_maps(means, title)


def _accuracy(shown: Shown, title: str) -> Figure:
    _needs(shown.compared, "accuracy", NO_TEST)
    return curves.accuracy_curves(shown.compared, title)


def _forgetting(shown: Shown, title: str) -> Figure:
    groups = shown.compared.values()
    _needs([one for group in groups for one in group if np.isfinite(one.forgetting())], "forgetting", NO_ROWS)
    return curves.forgetting_curves(shown.compared, title)


def _keeping(shown: Shown, title: str) -> Figure:
    groups = shown.compared.values()
    _needs([one for group in groups for one in group if np.isfinite(one.backward_transfer())], "keeping", NO_ROWS)
    return methods.keeping(shown.compared, title)


def _final(shown: Shown, title: str) -> Figure:
    lines = [line for line in shown.results.table.lines if shown.has(line.key)]
    _needs([line for line in lines if "average_accuracy" in line.metrics], "final", NO_TEST)
    return methods.bars(replace(shown.results.table, lines=lines), title)


def _differences(shown: Shown, title: str) -> Figure:
    table = shown.results.table
    _needs([base for base in table.baselines.values() if base.against], "differences", "it has one method with "
           "figures on test data, or none; add methods, and let the sweep run to its end")  # fmt: skip
    return methods.differences(table, title, shown.has)


def _trade_off(cost: methods.Price, why: str) -> Callable[[Shown, str], Figure]:
    def draw_cost(shown: Shown, title: str) -> Figure:
        owners = shown.owners
        trials = shown.results.trials
        own = trials.filter(pc.is_in(trials["trial"], pa.array(list(owners), pa.string())))
        known = [
            name for name in methods.COSTS[cost][0] if name in own.column_names and own[name].null_count < len(own)
        ]
        _needs(known and len(own), cost, why)
        return methods.trade_off(own, cost, title, owners)

    return draw_cost


def _searches(shown: Shown) -> dict[str, pa.Table]:
    found = {key: points for key, points in shown.results.searches.items() if shown.has(key)}
    return {key: points for key, points in found.items() if points["value"].null_count < len(points)}


def _slices(shown: Shown, title: str) -> Figure:
    found = _searches(shown)
    _needs(found, "slices", NO_SEARCH)
    return searches.slices(found, shown.results.spaces, title)


def _importance(shown: Shown, title: str) -> Figure:
    found = {key: points for key, points in _searches(shown).items() if len(shown.results.spaces[key]) > 1}
    _needs(found, "importance", "no method has two searched values, among which one could matter more")
    told = ", ".join(f"{key} {len(points) - points['value'].null_count}" for key, points in found.items())
    enough = any(searches.tells_importance(points, shown.results.spaces[key]) for key, points in found.items())
    _needs(enough, "importance", f"too few points have finished ({told}), or all came to the same; at least "
           f"{searches.FEWEST_POINTS} are needed: raise search.trials, and continue in the folder")  # fmt: skip
    return searches.importance(found, shown.results.spaces, title)


def _expected_best(shown: Shown, title: str) -> Figure:
    lines = [line for line in shown.results.table.lines if shown.has(line.key)]
    _needs([line for line in lines if line.search and line.search.values], "expected-best", NO_SEARCH)
    return searches.expected_best(replace(shown.results.table, lines=lines), title)


def _inside(shown: Shown, title: str) -> Figure:
    _needs(len(shown.results.inside), "inside", "evaluation: {inside: {updates: 10}} measures while tasks are learned")
    return curves.inside_curves(shown.results.inside, shown.owners, title=title)


def _online(shown: Shown, title: str) -> Figure:
    found = online_curves(shown.results.online, shown.owners)
    _needs(found, "online", "evaluation: {online: true} predicts examples before they are learned")
    return curves.task_curves(found, "online accuracy", title)


def _confusion(shown: Shown, title: str) -> Figure:
    found = inferred(shown.results.measures, shown.owners)
    _needs(found, "confusion", "no method of this folder tells which task it took rows for; one whose measures() has "
           "inferred.TRUE.TAKEN (tasks from 1) would")  # fmt: skip
    key, shares = next(iter(found.items()))
    return matrices.confusion(shares, f"{title}: {key}" if title else key)


def inferred(measures: pa.Table, owners: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Which task the rows of each task were taken for after the last one, of methods that tell it.

    Args:
        measures: :func:`raycl.results.reading.read_measures`; what is called as :data:`INFERRED` has it.
        owners: trial -> the name under which it counts.

    Returns:
        By name ``[tasks, tasks]``, the mean over its trials: of the rows of task i, those that were taken for task j.
    """
    found: dict[str, dict[tuple[int, int], list[float]]] = {}
    told = measures.filter(pc.match_substring_regex(measures["name"], f"^{INFERRED.pattern}$"))
    last = max(told["train_task"].to_pylist(), default=-1)
    for row in told.filter(pc.field("train_task") == last).to_pylist():
        place = INFERRED.fullmatch(row["name"])
        if place is not None and row["trial"] in owners:
            cell = int(place[1]) - 1, int(place[2]) - 1
            found.setdefault(owners[row["trial"]], {}).setdefault(cell, []).append(row["value"])
    shares = {}
    for name, cells in found.items():
        shares[name] = np.full([1 + max(map(max, cells))] * 2, np.nan)
        for cell, values in cells.items():
            shares[name][cell] = np.mean(values)
    return shares


PICTURES: Mapping[str, Kind] = {
    "matrix": Kind("accuracy after each task, on each task, as heat maps: means over seeds", _matrix),
    "final": Kind("average accuracy of each method after the last task", _final),
    "differences": Kind("each method less the baseline, paired by seed", _differences),
    "accuracy": Kind("average accuracy over the tasks learned so far", _accuracy),
    "forgetting": Kind("what was lost of each task by the end", _forgetting),
    "keeping": Kind("learning against keeping: plasticity and stability of each method", _keeping),
    "memory": Kind("accuracy against the bytes that are kept, with the Pareto set", _trade_off("memory", NO_TEST)),
    "compute": Kind(
        "accuracy against the examples that went backward, with the Pareto set",
        _trade_off("compute", "no trial has counted examples, or no final one has finished: results of an old raycl"),
    ),
    "compression": Kind(
        "accuracy against trainable over generated weights",
        _trade_off("compression", "only methods that generate weights have a compression ratio, such as hypernetwork"),
    ),
    "expected-best": Kind("the best point to expect of a search of n points (Dodge et al. 2019)", _expected_best),
    "slices": Kind("validation figures of a search against each searched value", _slices),
    "importance": Kind("how much each searched value matters (functional ANOVA)", _importance),
    "inside": Kind("accuracy on the first task while tasks are learned: the stability gap", _inside),
    "online": Kind("accuracy on examples before they are learned, task by task", _online),
    "confusion": Kind("which task the rows of each task were taken for", _confusion),
}
"""By name, as ``raycl plot`` takes it."""
