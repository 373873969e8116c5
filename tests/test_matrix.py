"""The metrics of continual learning, against listed values, a transposed matrix, and the mistakes seen elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raycl.matrix import AccuracyMatrix, Cost, Curve, TaskRow, cut_after
from raycl.spec.sweep_options import SearchMetric

ACCURACY = np.array([[0.9, 0.1, 0.2], [0.7, 0.8, 0.3], [0.6, 0.5, 0.7]])
UNTRAINED = np.array([0.1, 0.1, 0.1])
LISTED = {
    "average_accuracy": 0.6,
    "average_incremental_accuracy": 0.75,
    "pooled_accuracy": 0.6,
    "pooled_average_incremental_accuracy": 0.75,
    "learning_accuracy": 0.8,
    "backward_transfer": -0.3,
    "forward_transfer": 0.1,
    "forgetting": 0.3,
    "forgetting_all_rows": 0.3,
}
TRANSPOSED = {"average_accuracy": 0.4, "backward_transfer": -0.6, "forward_transfer": 0.5, "forgetting": 0.6}

squares = st.integers(2, 8).flatmap(lambda n: arrays(float, (n, n), elements=st.floats(0, 1, width=32)))


def test_the_listed_matrix() -> None:
    assert AccuracyMatrix(ACCURACY, UNTRAINED).metrics() == pytest.approx(LISTED)
    assert AccuracyMatrix(ACCURACY, UNTRAINED).intransigence([0.9, 0.9, 0.9]) == pytest.approx(0.1)


def test_a_transposed_matrix_gives_other_values() -> None:
    found = AccuracyMatrix(ACCURACY.T, UNTRAINED).metrics()
    assert {name: found[name] for name in TRANSPOSED} == pytest.approx(TRANSPOSED)
    assert all(abs(TRANSPOSED[name] - LISTED[name]) > 0.1 for name in TRANSPOSED)


WRONG: dict[str, tuple[str, Callable[[np.ndarray], float]]] = {
    "backward transfer over T entries": ("backward_transfer", lambda r: float(np.mean(r[-1] - np.diag(r)))),
    "forward transfer from R[j, j-1]": (
        "forward_transfer",
        lambda r: float(np.mean(np.diagonal(r, offset=-1) - UNTRAINED[1:])),
    ),
    "forgetting as first minus last": ("forgetting", lambda r: float(np.mean(np.diag(r)[:-1] - r[-1, :-1]))),
    "forgetting against the last row too": ("forgetting", lambda r: float(np.mean(r.max(axis=0)[:-1] - r[-1, :-1]))),
    "step average over all T tasks": ("average_incremental_accuracy", lambda r: float(np.tril(r).mean(axis=1).mean())),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_known_mistakes_are_told_apart(mistake: str) -> None:
    """On a matrix where task 1 peaks late, and improves at the end: the wrong variants all differ here."""
    accuracy = np.array([[0.5, 0.1, 0.2], [0.8, 0.6, 0.3], [0.6, 0.9, 0.7]])
    metric, wrong = WRONG[mistake]
    right = AccuracyMatrix(accuracy, UNTRAINED).metrics()
    expected = {
        "backward_transfer": 0.2,
        "forward_transfer": 0.1,
        "forgetting": -0.05,
        "average_incremental_accuracy": (0.5 + 0.7 + 2.2 / 3) / 3,
    }
    assert right[metric] == pytest.approx(expected[metric])
    assert wrong(accuracy) != pytest.approx(expected[metric])


@given(squares)
def test_accuracy_is_learning_accuracy_plus_backward_transfer(accuracy: np.ndarray) -> None:
    matrix = AccuracyMatrix.from_array(accuracy.tolist())
    tasks = matrix.num_tasks
    identity = matrix.learning_accuracy() + (tasks - 1) / tasks * matrix.backward_transfer()
    assert matrix.average_accuracy() == pytest.approx(identity, abs=1e-9)


@given(squares)
def test_bounds_and_relations(accuracy: np.ndarray) -> None:
    matrix = AccuracyMatrix.from_array(accuracy.tolist(), [0.0] * len(accuracy))
    assert matrix.forgetting() >= -matrix.backward_transfer() - 1e-9, "the best of several is at least the first"
    assert matrix.forgetting_all_rows() >= matrix.forgetting() - 1e-9, "the best of more rows"
    assert all(-1 <= value <= 1 for value in matrix.metrics().values())
    upper = np.triu(np.random.default_rng(0).random(accuracy.shape), 1)
    changed = AccuracyMatrix.from_array((np.tril(accuracy) + upper).tolist(), [0.0] * len(accuracy))
    for name in set(matrix.metrics()) - {"forward_transfer", "forgetting_all_rows"}:
        assert changed.metrics()[name] == pytest.approx(matrix.metrics()[name]), f"{name} reads tasks not learned yet"


def test_joint_training_has_one_row_and_no_forgetting() -> None:
    rows = [TaskRow(2, np.array([9, 8, 7]), np.array([10, 10, 10]))]
    found = AccuracyMatrix.of(rows, 3).metrics()
    assert found["average_accuracy"] == found["average_incremental_accuracy"] == pytest.approx(0.8)
    assert found["pooled_accuracy"] == found["pooled_average_incremental_accuracy"] == pytest.approx(0.8)
    for name in ("learning_accuracy", "backward_transfer", "forward_transfer", "forgetting", "forgetting_all_rows"):
        assert math.isnan(found[name]), name


def test_heads_that_do_not_exist_yet_leave_forward_transfer_undefined_and_the_rest_whole() -> None:
    accuracy = np.where(np.tri(3, dtype=bool), ACCURACY, np.nan)
    found = AccuracyMatrix(accuracy, np.full(3, np.nan)).metrics()
    assert math.isnan(found.pop("forward_transfer"))
    assert found == pytest.approx({name: LISTED[name] for name in found})


def test_one_task() -> None:
    found = AccuracyMatrix.from_array([[0.7]]).metrics()
    assert found["average_accuracy"] == found["learning_accuracy"] == 0.7
    undefined = ("backward_transfer", "forward_transfer", "forgetting", "forgetting_all_rows")
    assert all(math.isnan(found[name]) for name in undefined)


def test_a_trial_that_stopped_early_has_averages_up_to_there() -> None:
    rows = [TaskRow(task, np.full(4, 5 + task), np.full(4, 10)) for task in range(2)]
    matrix = AccuracyMatrix.of(rows, 4)
    assert matrix.average_accuracy(1) == 0.6
    assert math.isnan(matrix.average_accuracy())
    assert matrix.average_incremental_accuracy(1) == pytest.approx(0.55)


def test_rows_come_in_any_order_and_null_cells_are_nan() -> None:
    rows = [
        TaskRow(1, np.array([7, 8]), np.array([10, 10]), Cost(1.0)),
        TaskRow(-1, np.array([1, 0]), np.array([10, 0])),
        TaskRow(0, np.array([9, 0]), np.array([10, 0])),
    ]
    matrix = AccuracyMatrix.of(rows, 2)
    np.testing.assert_array_equal(matrix.accuracy, [[0.9, np.nan], [0.7, 0.8]])
    np.testing.assert_array_equal(matrix.untrained, [0.1, np.nan])
    assert matrix.forgetting() == pytest.approx(0.2)


def test_tasks_of_different_sizes_weigh_the_same() -> None:
    rows = [TaskRow(1, np.array([10, 900]), np.array([100, 1000]))]
    assert AccuracyMatrix.of(rows, 2).average_accuracy() == pytest.approx(0.5)


def unequal() -> AccuracyMatrix:
    """Naive, on tasks of 6, 2 and 2 classes with ten images each: only the task just learned is known, at .95."""
    total = np.array([60, 20, 20])
    known = [[57, 0, 0], [0, 19, 0], [0, 0, 19]]
    return AccuracyMatrix.of([TaskRow(task, np.array(row), total) for task, row in enumerate(known)], 3)


POOLED = {
    "average_accuracy": 0.95 / 3,
    "average_incremental_accuracy": (0.95 + 0.95 / 2 + 0.95 / 3) / 3,
    "pooled_accuracy": 19 / 100,
    "pooled_average_incremental_accuracy": (57 / 60 + 19 / 80 + 19 / 100) / 3,
}


class TestPooled:
    def test_every_image_weighs_the_same(self) -> None:
        found = unequal().metrics()
        assert {name: found[name] for name in POOLED} == pytest.approx(POOLED)

    def test_the_mean_over_tasks_and_weights_of_all_tasks_are_told_apart(self) -> None:
        """Mutants: the mean that every task has a part in, and one that divides by the images of later tasks too."""
        matrix = unequal()
        over_all = [float(np.nansum(matrix.accuracy[i, : i + 1] * matrix.sizes[: i + 1]) / 100) for i in range(3)]
        right = POOLED["pooled_average_incremental_accuracy"]
        for wrong in (matrix.average_incremental_accuracy(), float(np.mean(over_all))):
            assert abs(wrong - right) > 0.1

    def test_equal_tasks_and_unknown_counts_pool_to_the_mean(self) -> None:
        for matrix in (AccuracyMatrix(ACCURACY, UNTRAINED), AccuracyMatrix.from_array(ACCURACY.tolist())):
            assert matrix.pooled_accuracy() == pytest.approx(matrix.average_accuracy())
            assert matrix.sizes.tolist() == [1, 1, 1]

    def test_each_is_a_search_metric(self) -> None:
        for metric in get_args(SearchMetric):
            curve = unequal().curve(metric)
            assert curve[-1] == pytest.approx(POOLED[metric])
            assert curve[0] == pytest.approx(0.95)
        assert set(get_args(SearchMetric)) == set(POOLED)
        with pytest.raises(KeyError):
            unequal().curve("pooled")

    def test_a_step_is_taken_over_the_cells_that_were_measured(self) -> None:
        rows = [TaskRow(0, np.array([9, 0]), np.array([10, 0])), TaskRow(1, np.array([0, 3]), np.array([0, 10]))]
        matrix = AccuracyMatrix.of(rows, 2)
        assert matrix.pooled_accuracy(0) == 0.9
        assert matrix.pooled_accuracy() == 0.3
        assert matrix.pooled_average_incremental_accuracy() == pytest.approx(0.6)
        assert math.isnan(AccuracyMatrix.of(rows[:1], 2).pooled_accuracy())


@pytest.mark.parametrize("metric", get_args(SearchMetric))
def test_a_curve_taken_in_row_by_row_is_that_of_the_whole_matrix(metric: SearchMetric) -> None:
    """To the last bit, with cells, rows and sizes missing or unequal; in two parts, as where a trial goes on."""
    random = np.random.default_rng(0)
    total = random.integers(1, 50, (8, 8)) * (random.random((8, 8)) < 0.6)
    total[4] = 0
    rows = [TaskRow(task, random.integers(0, 50, 8) * (total[task] > 0), total[task]) for task in range(-1, 7)]
    values = AccuracyMatrix.of(rows, 8).curve(metric)
    curve = Curve(metric)
    for part in (rows[:3], rows[3:]):
        curve.add(part)
    assert curve.values == {task: value for task, value in enumerate(values) if not math.isnan(value)}
    assert 2 < len(curve.values) < 7


def partly(accuracy: list[list[float | None]]) -> AccuracyMatrix:
    return AccuracyMatrix.from_array([[math.nan if value is None else value for value in row] for row in accuracy])


def test_metrics_are_taken_over_the_cells_that_were_measured() -> None:
    """Rows 1 and 3 of four, each whole; task 3's own row is the last, so it has lost nothing."""
    matrix = partly([[0.9, None, None, None], [None] * 4, [0.7, 0.5, 0.8, None], [0.6, 0.4, 0.5, 0.9]])
    assert matrix.average_accuracy() == pytest.approx(0.6)
    assert matrix.average_accuracy(2) == pytest.approx(2 / 3)
    assert math.isnan(matrix.average_accuracy(1))
    assert matrix.learning_accuracy() == pytest.approx((0.9 + 0.8 + 0.9) / 3)
    assert matrix.backward_transfer() == pytest.approx(((0.6 - 0.9) + (0.5 - 0.8)) / 2)  # task 2 has no row of its own
    assert matrix.forgetting() == pytest.approx(((0.9 - 0.6) + (0.8 - 0.5)) / 2)
    assert matrix.forgetting_all_rows() == matrix.forgetting()
    assert matrix.average_incremental_accuracy() == pytest.approx((0.9 + 2 / 3 + 0.6) / 3)


def test_a_last_row_alone_tells_of_accuracy_and_of_nothing_that_was_lost() -> None:
    """What a search reads. Its last cell is on the diagonal, and no learning accuracy; no cell is taken for zero."""
    matrix = partly([[None] * 3, [None] * 3, [0.2, 0.4, 0.9]])
    assert matrix.average_accuracy() == pytest.approx(0.5)
    known = {name: value for name, value in matrix.metrics().items() if not math.isnan(value)}
    assert math.isnan(matrix.intransigence([0.9, 0.9, 0.95]))  # as of joint training, which has one row
    assert set(known) == {
        "average_accuracy",
        "average_incremental_accuracy",
        "pooled_accuracy",
        "pooled_average_incremental_accuracy",
    }


def test_forgetting_counts_from_the_tasks_own_row_and_chaudhrys_from_the_first() -> None:
    """Task 2 was answered better before it was learned than ever after: .9 by chance of a shared head."""
    matrix = AccuracyMatrix.from_array([[0.8, 0.9, 0.1], [0.7, 0.6, 0.2], [0.5, 0.4, 0.7]])
    assert matrix.forgetting() == pytest.approx(((0.8 - 0.5) + (0.6 - 0.4)) / 2)
    assert matrix.forgetting_all_rows() == pytest.approx(((0.8 - 0.5) + (0.9 - 0.4)) / 2)
    absent = AccuracyMatrix.from_array([[0.8, math.nan, math.nan], [0.7, 0.6, math.nan], [0.5, 0.4, 0.7]])
    assert absent.forgetting_all_rows() == absent.forgetting()


@pytest.mark.parametrize(
    ("curve", "cutoffs", "ends"),
    [
        ({0: 0.5, 1: 0.4, 2: 0.1}, {1: 0.45, 0: 0.45}, 1),
        ({0: 0.3, 1: 0.4}, {1: 0.45, 0: 0.45}, 0),
        ({0: 0.45, 1: 0.45}, {0: 0.45, 1: 0.45}, None),
        ({0: 0.9, 2: 0.1}, {1: 0.45, 2: 0.45}, None),
        ({0: math.nan}, {0: 0.0}, 0),
        ({}, {0: 0.45}, None),
    ],
    ids=[
        "the second task",
        "the first one counts",
        "equal survives",
        "not measured, and the last",
        "nan",
        "no row yet",
    ],
)
def test_a_trial_is_cut_after_its_first_task_below(
    curve: dict[int, float], cutoffs: dict[int, float], ends: int | None
) -> None:
    assert cut_after(curve, cutoffs, num_tasks=3) == ends


def test_costs_add_up_but_for_what_is_held_after_them() -> None:
    parts = [
        Cost(1.0, 0.5, 0.25, 10, 100, 7, 70, 3, 2, forward_examples=300, gradient_examples=100, budget_spent=100),
        Cost(2.0, 1.0, 0.25, 5, 50, 9, 90, 4, 3, forward_examples=150, gradient_examples=None, budget_spent=50),
    ]
    total = parts[0].summed(parts)
    assert (total.wall_seconds, total.cpu_seconds, total.evaluation_seconds) == (3.0, 1.5, 0.5)
    assert (total.updates, total.examples, total.forward_examples, total.budget_spent) == (15, 150, 450, 150)
    assert total.gradient_examples is None, "a part of it is not known"
    assert (total.parameters, total.state_bytes, total.buffer_bytes, total.buffer_examples) == (7, 70, 3, 2)
