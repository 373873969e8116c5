"""Metrics inside tasks against a hand-worked example, and the tables that hold them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raycl.matrix import Online, Points, TaskRow
from raycl.results import schema
from raycl.results.inside import InsideCurves, inside_metrics, largest_rise

EMPTY = np.zeros(2, dtype=np.int64)


def row(task: int, accuracy: list[list[float]], tasks: list[int], online: Online | None = None) -> TaskRow:
    counts = np.round(100 * np.array(accuracy)).astype(np.int64)
    points = Points(np.arange(len(counts)) * 10, np.array(tasks), counts, np.full(len(tasks), 100))
    return TaskRow(task, EMPTY, EMPTY, points=points, online=online)


def example() -> list[TaskRow]:
    """Task 1 while task 2 is learned: .9, .2, .6, .8; task 2 itself: .1, .5, .7, .8."""
    first = row(0, [[0.1], [0.6], [0.9], [0.9]], [0])
    return [first, row(1, [[0.9, 0.1], [0.2, 0.5], [0.6, 0.7], [0.8, 0.8]], [0, 1])]


def test_the_example_by_hand() -> None:
    curves = InsideCurves(example())
    assert curves.min_accuracy() == pytest.approx(0.2)
    assert curves.worst_case_accuracy() == pytest.approx((0.8 + 0.2) / 2)
    assert curves.stability_gap() == pytest.approx(0.7)
    assert curves.average_anytime_accuracy() == pytest.approx((0.1 + 0.6 + 0.9 + 0.9 + 0.5 + 0.35 + 0.65 + 0.8) / 8)
    assert curves.learning_curve_area() == pytest.approx((0.625 + 0.525) / 2)
    lost, gained = curves.curve(0), curves.curve(1)
    assert largest_rise(-lost, 2) == pytest.approx(0.7)
    assert largest_rise(-lost, 4) == pytest.approx(0.7)
    assert largest_rise(gained, 2) == pytest.approx(0.4)
    assert largest_rise(gained, 3) == pytest.approx(0.6)
    assert curves.windowed_forgetting(2) == pytest.approx(0.35)  # task 2 loses nothing


def test_the_ends_of_tasks_alone_show_no_gap() -> None:
    """The mutant: what a matrix sees of the same run."""
    ends = [row(0, [[0.9]], [0]), row(1, [[0.9, 0.1], [0.8, 0.8]], [0, 1])]
    assert InsideCurves(ends).stability_gap() == pytest.approx(0.1)
    assert InsideCurves(ends).worst_case_accuracy() == pytest.approx(0.8)
    assert InsideCurves(example()).worst_case_accuracy() != pytest.approx(0.8)


def test_the_least_accuracy_is_that_of_every_later_task() -> None:
    three = [*example(), row(2, [[0.8, 0.8, 0.0], [0.5, 0.1, 0.4], [0.7, 0.6, 0.9]], [0, 1, 2])]
    curves = InsideCurves(three)
    assert curves.min_accuracy() == pytest.approx((0.2 + 0.1) / 2)
    assert curves.worst_case_accuracy() == pytest.approx(0.9 / 3 + 2 / 3 * 0.15)
    assert curves.stability_gap() == pytest.approx((0.7 + 0.3 + 0.7) / 3)


def test_a_task_that_a_sample_left_out_is_followed_where_it_was_measured() -> None:
    three = [*example(), row(2, [[0.8, 0.0], [0.5, 0.4]], [1, 2])]
    assert InsideCurves(three).stability_gap() == pytest.approx((0.7 + 0.3) / 2)
    assert InsideCurves(three).curve(0).tolist() == pytest.approx([0.1, 0.6, 0.9, 0.9, 0.9, 0.2, 0.6, 0.8])


def test_nothing_is_said_of_trials_that_did_not_measure_inside_tasks() -> None:
    assert inside_metrics([TaskRow(0, EMPTY, EMPTY)]) == {}
    assert math.isnan(InsideCurves([]).worst_case_accuracy())
    assert InsideCurves(example()[:1]).worst_case_accuracy() == pytest.approx(0.9)


def test_online_accuracy_is_the_mean_over_tasks() -> None:
    rows = [TaskRow(task, EMPTY, EMPTY, online=Online(correct, 10)) for task, correct in enumerate((3, 5))]
    assert inside_metrics(rows) == {"online_accuracy": pytest.approx(0.4)}


def test_rows_come_back_from_parquet_as_they_were() -> None:
    rows = [TaskRow(-1, EMPTY, EMPTY), *example()]
    rows[2] = TaskRow(1, EMPTY, EMPTY, points=rows[2].points, online=Online(3, 7))
    data = schema.to_parquet(schema.rows_table(rows))
    back = schema.rows_of(schema.from_parquet(data, "rows"))
    assert [one.online for one in back] == [None, None, Online(3, 7)]
    assert back[0].points is None
    for one, other in zip(back[1:], rows[1:], strict=True):
        assert one.points is not None
        assert other.points is not None
        assert all(np.array_equal(getattr(one.points, name), value) for name, value in vars(other.points).items())


def test_the_tables_have_a_row_for_each_point_and_task() -> None:
    table = schema.inside_table("t", example())
    assert table.num_rows == 4 + 8
    assert [tuple(row.values()) for row in table.slice(4, 3).to_pylist()] == [
        ("t", 1, 0, 0, 90, 100),
        ("t", 1, 0, 1, 10, 100),
        ("t", 1, 10, 0, 20, 100),
    ]
    rows = [TaskRow(2, EMPTY, EMPTY, online=Online(3, 7))]
    assert schema.online_table("t", rows).to_pylist() == [{"trial": "t", "train_task": 2, "correct": 3, "total": 7}]
