"""Curves over tasks: how accuracy develops, what is forgotten of each task, and what happens inside one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raycl.matrix import AccuracyMatrix
from raycl.results.plots.style import INK, LABEL, RULE, in_bounds, legend, line, new_figure, percent


def accuracy_curves(matrices: Mapping[str, Sequence[AccuracyMatrix]], title: str = "") -> Figure:
    """Average accuracy over the tasks learned so far, against their number: mean over seeds, band of its 95 %
    t-interval.

    A method with a single row (joint training) is a dashed line at its value.
    """
    figure, axes = new_figure(title)
    tasks = max((matrix.num_tasks for group in matrices.values() for matrix in group), default=1)
    for index, (name, group) in enumerate(matrices.items()):
        curves = np.array([[matrix.average_accuracy(task) for task in range(matrix.num_tasks)] for matrix in group])
        known = np.isfinite(curves).all(axis=0)
        steps = np.flatnonzero(known) + 1
        if len(steps) == 1 and tasks > 1:
            axes.axhline(curves[:, known].mean(), color=INK, linestyle=(0, (7, 3)), linewidth=1.2, label=name)
            continue
        line(axes, index, name, steps, curves[:, known])
    axes.set_xlim(1 - 0.02 * tasks, tasks + 0.02 * tasks)
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.set_xlabel("tasks learned")
    axes.set_ylabel("average accuracy over the tasks learned")
    percent(axes, "y")
    legend(axes)
    return figure


def forgetting_curves(matrices: Mapping[str, Sequence[AccuracyMatrix]], title: str = "") -> Figure:
    """What was lost of each task by the end, against the task: mean over seeds, band of its 95 % t-interval.

    As :meth:`raycl.matrix.AccuracyMatrix.forgetting` has it, whose mean over tasks the table shows; the last task has
    had no time to be forgotten. Methods that were not measured task by task are left out.
    """
    figure, axes = new_figure(title)
    means = [0.0]
    for index, (name, group) in enumerate(matrices.items()):
        lost = np.array([matrix.forgetting_of_tasks() for matrix in group])  # [seeds, tasks - 1]
        known = np.isfinite(lost).all(axis=0)
        if known.any():
            line(axes, index, name, np.flatnonzero(known) + 1, lost[:, known])
            means += lost[:, known].mean(axis=0).tolist()
    in_bounds(axes, "y", means)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    axes.set_xlabel("task")
    axes.set_ylabel("forgetting of the task after the last one")
    percent(axes, "y")
    legend(axes)
    return figure


def task_curves(curves: Mapping[str, np.ndarray], label: str, title: str = "") -> Figure:
    """A number of each task against the tasks, as :mod:`raycl.results.trends` reads them off a results folder.

    Mean over the trials of a name, band of its 95 % t-interval.

    Args:
        curves: name -> ``[trials, tasks]``.
        label: of the number.
    """
    figure, axes = new_figure(title)
    for index, (name, group) in enumerate(curves.items()):
        line(axes, index, name, np.arange(1, group.shape[1] + 1), group, marked=False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.yaxis.grid(color=RULE, linewidth=0.7)
    axes.set_xlabel("task")
    axes.set_ylabel(label)
    legend(axes)
    return figure


def inside_curves(inside: pa.Table, names: Mapping[str, str], task: int = 0, title: str = "") -> Figure:
    """Accuracy on one task while it and every later task is learned.

    Mean over the trials of a name, band of its 95 % t-interval. A task that is learned as well as ever afterwards, and
    drops on the way, shows its stability gap here and in no accuracy matrix.

    Args:
        inside: :func:`raycl.results.reading.read_inside`.
        names: trial -> the name under which it counts.
    """
    figure, axes = new_figure(title)
    seen = inside.filter(pc.field("eval_task") == task)
    for index, name in enumerate(dict.fromkeys(names.values())):
        curves = []
        for trial in (trial for trial, own in names.items() if own == name):
            progress, accuracy = _inside_curve(seen.filter(pc.field("trial") == trial))
            curves += [accuracy] if len(accuracy) else []
        if not curves:
            continue
        line(axes, index, name, progress, np.array(curves), marked=False)
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.xaxis.grid(color=RULE, linewidth=0.7)
    axes.set_xlabel("tasks learned; between two of them by share of the updates", fontsize=LABEL)
    axes.set_ylabel(f"accuracy on task {task + 1}")
    percent(axes, "y")
    legend(axes)
    return figure


def _inside_curve(points: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Of one trial and evaluated task, ``[points]`` each: tasks learned by then, as a fraction, and accuracies."""
    learned, update = points["train_task"].to_numpy(), points["update"].to_numpy()
    last = {task: update[learned == task].max() for task in np.unique(learned)}
    share = update / np.maximum([last[task] for task in learned], 1)
    return learned + share, points["correct"].to_numpy() / points["total"].to_numpy()
