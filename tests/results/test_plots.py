"""The pictures: drawn for few and many tasks, with the figures that they should show."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from results.made_results import rows, spec

from raycl.matrix import AccuracyMatrix
from raycl.results import plots
from raycl.results.store import ResultsFolder
from raycl.results.tables import comparison


def _matrix(tasks: int) -> AccuracyMatrix:
    return AccuracyMatrix(np.where(np.tri(tasks, dtype=bool), 0.5, np.nan), np.full(tasks, np.nan))


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("tasks", [1, 3, 5, 30, 1000])
def test_heat_maps_of_any_size(tasks: int) -> None:
    start = time.process_time()
    figure = plots.heat_map(_matrix(tasks), "replay")
    picture = plots.png(figure)
    assert picture.startswith(b"\x89PNG")
    assert time.process_time() - start < 10
    assert len(picture) < 300_000
    assert _texts(figure) == (["50.0"] * (tasks * (tasks + 1) // 2) if tasks <= 5 else [])
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("evaluated on task", "after learning task")


def test_curves_have_a_mean_a_band_and_a_dashed_line_for_a_single_row() -> None:
    first, second = AccuracyMatrix.of(rows(), 3), AccuracyMatrix.of(rows(4), 3)
    joint = AccuracyMatrix.from_array([[np.nan] * 3, [np.nan] * 3, [0.9, 0.9, 0.9]])
    figure = plots.accuracy_curves({"ewc": [first, second], "joint": [joint]}, "tiny")
    axes = figure.axes[0]
    curve, line = axes.get_lines()
    np.testing.assert_allclose(curve.get_xydata(), [[1, 0.92], [2, 0.77], [3, 0.62]])
    np.testing.assert_allclose(line.get_ydata(), [0.9, 0.9])
    assert len(axes.collections) == 1
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ewc", "joint"]
    assert plots.png(figure)


def test_bars_mark_upper_bounds(results: ResultsFolder, record: Callable[..., Any]) -> None:
    record(spec("ewc"), rows())
    record(spec("joint", options={}), rows(5), upper_bound=True)
    figure = plots.bars(comparison(results), "tiny")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["joint (upper bound)", "ewc"]
    assert _texts(figure) == ["65.0", "60.0"]
    assert plots.png(figure)


def test_nothing_to_draw_is_an_empty_picture(results: ResultsFolder) -> None:
    assert plots.png(plots.bars(comparison(results)))
    assert plots.png(plots.accuracy_curves({}))
