"""The pictures: drawn for few and many tasks, with the figures that they should show."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from results.made_results import HEAD, Made, rows, spec

from raycl.errors import PathError
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


def test_of_many_tasks_squares_are_drawn_and_mean_what_was_measured_in_them() -> None:
    """A long stream measures few cells, each of less than a point: 101 tasks in squares of 3, the last one of 2."""
    accuracy = np.full((101, 101), np.nan)
    accuracy[0, 0], accuracy[2, 1], accuracy[100, 99], accuracy[100, 0] = 0.2, 0.8, 0.7, 0.3
    figure = plots.heat_map(AccuracyMatrix(accuracy, np.full(101, np.nan)))
    (image,) = figure.axes[0].get_images()
    shown = image.get_array()
    assert shown.shape == (34, 34)
    assert {place: float(shown[place]) for place in zip(*np.nonzero(~shown.mask), strict=True)} == pytest.approx(
        {(0, 0): 0.5, (33, 33): 0.7, (33, 0): 0.3}
    )
    assert image.get_extent() == [0.5, 102.5, 102.5, 0.5]
    assert (figure.axes[0].get_xlim(), figure.axes[0].get_ylim()) == ((0.5, 101.5), (101.5, 0.5))
    assert figure.axes[1].get_ylabel() == "accuracy, mean of the cells\nmeasured in 3 x 3 tasks"
    assert plots.heat_map(_matrix(100)).axes[0].get_images()[0].get_array().shape == (100, 100)


def test_several_matrices_are_drawn_side_by_side() -> None:
    figure = plots.heat_maps({f"m{number}": _matrix(30) for number in range(5)}, "five", columns=4)
    drawn = [axes for axes in figure.axes if axes.get_images()]
    assert [axes.get_title(loc="left") for axes in drawn] == ["m0", "m1", "m2", "m3", "m4"]
    labelled = [axes.xaxis.get_tick_params()["labelbottom"] for axes in drawn]
    assert labelled == [False, True, True, True, True], "the lowest of each column"
    assert plots.png(figure)
    assert plots.png(plots.heat_maps({}))


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


def _priced(*points: tuple[str, str, int, float]) -> pa.Table:
    """Finished final trials: alias, variant, examples backward, accuracy."""
    names = ("alias", "variant", "gradient_examples", "average_accuracy")
    columns = {name: [point[at] for point in points] for at, name in enumerate(names)}
    columns["trial"] = [f"{number:016x}" for number in range(len(points))]
    same = {"phase": "final", "status": "finished", "spec": '{"point": {}}', "state_bytes": 100, "buffer_bytes": 20}
    return pa.table(columns | {name: [value] * len(points) for name, value in same.items()})


def test_accuracy_against_compute_has_a_line_a_method_and_fills_the_pareto_set() -> None:
    """Of (cost, accuracy) (1, .5), (2, .7), (2, .6), (4, .7): the third costs as much as the second and is worse, the
    fourth is no better than the second and costs more."""
    table = _priced(
        ("plain", "x1", 100, 0.4), ("plain", "x1", 100, 0.6), ("plain", "x2", 200, 0.7), ("clever", "x1", 200, 0.6),
        ("clever", "x2", 400, 0.7),
    )  # fmt: skip
    axes = plots.trade_off(table).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}
    assert set(lines) == {"plain", "clever"}
    assert np.allclose(lines["plain"].get_xydata(), [[100, 0.5], [200, 0.7]])
    filled = {tuple(bars[0].get_xydata()[0]): bars[0].get_markerfacecolor() != "white" for bars in axes.containers}
    assert {(round(x), round(y, 9)): best for (x, y), best in filled.items()} == {
        (100, 0.5): True,
        (200, 0.7): True,
        (200, 0.6): False,
        (400, 0.7): False,
    }
    assert axes.get_xscale() == "log"
    kept = plots.trade_off(table, "memory").axes[0]
    assert {float(x) for line in kept.get_lines() for x in line.get_xdata()} == {120}
    assert not plots.trade_off(table, "compression").axes[0].get_lines(), "no method generates its weights"
    ratios = [0.5 if row["alias"] == "clever" else None for row in table.to_pylist()]
    told = table.append_column("measure.compression_ratio", pa.array(ratios, pa.float64()))
    (line,) = [
        line for line in plots.trade_off(told, "compression").axes[0].get_lines() if line.get_label() == "clever"
    ]
    assert set(line.get_xdata()) == {0.5}


def test_upper_bounds_stand_outside_the_pareto_set() -> None:
    """Joint training costs least and is best; without it ``plain`` is the only one of its cost."""
    table = _priced(("joint", "", 100, 0.9), ("plain", "", 200, 0.5), ("worse", "", 300, 0.4))
    table = table.append_column("upper_bound", pa.array([True, False, False]))
    axes = plots.trade_off(table).axes[0]
    assert [bars[0].get_markerfacecolor() == "white" for bars in axes.containers] == [True, False, True]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["joint (upper bound)", "plain", "worse"]


LEARNED = AccuracyMatrix.from_array([[0.9, np.nan, np.nan], [0.7, 0.8, np.nan], [0.6, 0.5, 0.7]])
"""LA .8, BWT -.3, forgetting .3 of both tasks."""
AGAIN = AccuracyMatrix.from_array([[0.9, np.nan, np.nan], [0.7, 0.8, np.nan], [0.5, 0.4, 0.7]])


def test_bands_are_intervals_of_the_mean() -> None:
    """Of two seeds t is 12.706, and the mean's error half their distance."""
    axes = plots.accuracy_curves({"ewc": [LEARNED, AGAIN]}).axes[0]
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices
    at_three = heights[heights[:, 0] == 3][:, 1]
    np.testing.assert_allclose(sorted(set(at_three.round(6))), [0.566667 - 12.7062 / 30, 0.566667 + 12.7062 / 30], 1e-4)


def test_forgetting_is_a_curve_over_all_tasks_but_the_last() -> None:
    joint = AccuracyMatrix.from_array([[np.nan] * 3, [np.nan] * 3, [0.9, 0.9, 0.9]])
    axes = plots.forgetting_curves({"ewc": [LEARNED, AGAIN], "joint": [joint]}).axes[0]
    curve, _zero = axes.get_lines()
    np.testing.assert_allclose(curve.get_xydata(), [[1, 0.35], [2, 0.35]])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ewc"]
    assert axes.get_xlabel() == "task"


def test_learning_stands_against_keeping() -> None:
    axes = plots.keeping({"ewc": [LEARNED, AGAIN]}).axes[0]
    (point,) = axes.containers
    np.testing.assert_allclose(point[0].get_xydata(), [[0.8, -0.35]])
    lines = [line for line in axes.get_lines() if line.get_label().startswith("_equal")]
    x, y = lines[6].get_data()
    np.testing.assert_allclose(x + 2 / 3 * np.asarray(y), 0.7), "ACC = LA + (T - 1) / T BWT"
    assert axes.get_xlabel().startswith("learning accuracy")
    assert axes.get_ylabel().startswith("backward transfer")


def test_the_mean_of_matrices_is_over_what_was_measured() -> None:
    sparse = AccuracyMatrix.from_array([[0.1, np.nan, np.nan], [np.nan, 0.8, np.nan], [0.6, 0.5, 0.7]])
    found = plots.mean_matrix([LEARNED, sparse]).accuracy
    np.testing.assert_allclose(found, [[0.5, np.nan, np.nan], [0.7, 0.8, np.nan], [0.6, 0.5, 0.7]])


def test_which_task_rows_were_taken_for_is_a_matrix_of_shares() -> None:
    figure = plots.confusion(np.array([[0.75, 0.25], [0.1, 0.9]]), "tir")
    assert _texts(figure) == ["75.0", "25.0", "10.0", "90.0"]
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("taken for task", "rows of task")


@pytest.mark.parametrize("form", plots.FORMS)
def test_a_picture_becomes_a_file_of_any_form(tmp_path: Path, form: str) -> None:
    """Fonts are embedded: outlines in svg, TrueType in pdf; the same picture is the same bytes."""
    files = [tmp_path / f"{number}.{form}" for number in range(2)]
    for file in files:
        plots.save(plots.keeping({"ewc": [LEARNED, AGAIN]}), file)
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert first.startswith({"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[form])
    assert form != "pdf" or (b"/FontFile2" in first and b"/Type3" not in first)
    assert form != "svg" or b"<text" not in first
    with pytest.raises(PathError, match=r"ends with \.pdf, \.svg, \.png"):
        plots.save(plots.keeping({}), tmp_path / "x.jpg")


def test_the_expected_best_of_a_search_is_a_curve_for_each_method(tmp_path: Path) -> None:
    """Points of 50, 70 and 60 %: one drawn is 60 on average; of two the best is 50 in 1 of 9, 60 in 3, 70 in 5."""
    method = "{strategy: replay, memory.capacity: {choice: [50, 100, 200]}}"
    text = f"{HEAD}strategies: {{first: {method}, one: {{strategy: naive}}}}\nsearch: {{trials: 4, seeds: [0]}}\n"
    made = Made(tmp_path / "r", text + "final: {seeds: [10]}\n")
    made.suggest("first", [50, 100, 200, 100])
    for capacity, value in ((50, 50.0), (100, 70.0), (200, 60.0)):
        made.end("first", capacity, 0, value)
    made.end("one", None, 10, 30.0, "final")
    figure = plots.expected_best(comparison(made.results), "tiny")
    (axes,) = figure.axes
    (line,) = axes.get_lines()
    expected = [0.6, (0.5 + 3 * 0.6 + 5 * 0.7) / 9, (0.5 + 7 * 0.6 + 19 * 0.7) / 27]
    np.testing.assert_allclose(line.get_xydata(), list(zip([1, 2, 3], expected, strict=True)))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["first"]
    assert plots.png(figure).startswith(b"\x89PNG")
