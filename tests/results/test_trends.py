"""Numbers of one task after another: read off tables, and their slopes against hand-worked ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raycl.matrix import Online, TaskRow
from raycl.results import plots, schema
from raycl.results.trends import Slope, measure_curves, online_curves

EMPTY = np.zeros(3, dtype=np.int64)
NAMES = {"b": "naive", "a": "naive", "c": "ewc", "d": "joint"}


def rows(*shares: float) -> list[TaskRow]:
    told = [Online(round(100 * share), 100) for share in shares]
    return [
        TaskRow(task, EMPTY, EMPTY, online=online, measures={"dead_units": task / 10, "free_units": 1.0})
        for task, online in enumerate(told)
    ]


def test_curves_stand_by_name_in_the_order_of_the_tasks() -> None:
    trials = {"a": rows(0.5, 0.25), "b": rows(1.0, 0.75), "c": rows(0.0, 0.5)}
    backwards = {trial: list(reversed(own)) for trial, own in trials.items()}
    online = schema.pa.concat_tables([schema.online_table(trial, own) for trial, own in backwards.items()])
    found = online_curves(online, NAMES)
    assert list(found) == ["naive", "ewc"]
    np.testing.assert_array_equal(found["naive"], [[1.0, 0.75], [0.5, 0.25]])
    measures = schema.pa.concat_tables([schema.measures_table(trial, own) for trial, own in backwards.items()])
    dead = measure_curves(measures, "dead_units", NAMES)
    np.testing.assert_array_equal(dead["ewc"], [[0.0, 0.1]])


def test_a_slope_and_its_interval_by_hand() -> None:
    """Slopes of -1 and -3: mean -2, deviation 1.414, and Student's t of one degree of freedom is 12.706."""
    curves = np.array([[10.0, 9.0, 8.0], [0.0, -3.0, -6.0]])
    slope = Slope.of(curves)
    assert slope.mean == pytest.approx(-2)
    assert slope.margin == pytest.approx(12.706 * math.sqrt(2) / math.sqrt(2), rel=1e-4)
    bent = np.array([[5.0, 0.0, 1.0, 3.0], [7.0, 0.0, 2.0, 3.0], [1.0, 0.0, 1.0, 2.0]])
    assert Slope.of(bent, after=1).mean == pytest.approx(np.mean([1.5, 1.5, 1.0]))
    assert Slope.of(bent, after=1).margin == pytest.approx(4.30265 * 0.288675 / math.sqrt(3), rel=1e-4)
    assert math.isnan(Slope.of(curves[:1]).margin)


def test_the_picture_has_a_line_with_a_band_for_each_name() -> None:
    figure = plots.task_curves({"naive": np.array([[0.9, 0.8], [0.7, 0.6]])}, "online accuracy")
    (axes,) = figure.axes
    (line,) = axes.get_lines()
    np.testing.assert_allclose(line.get_xydata(), [[1, 0.8], [2, 0.7]])
    assert axes.get_ylabel() == "online accuracy"
    assert len(axes.collections) == 1
    assert plots.png(figure)
