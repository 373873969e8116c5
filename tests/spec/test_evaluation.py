"""Which cells a trial measures: what a search needs, what covers what, and that no hash tells."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raycl.spec.evaluation import EvaluationConfig

TASKS = 12


def options(**given: Any) -> EvaluationConfig:
    return EvaluationConfig.model_validate_json(json.dumps(given))


def test_which_cells_are_measured_names_no_trial() -> None:
    other = options(search="all", every=7, from_task=2, tasks={"sample": 3})
    assert other.decisive() == options().decisive() == {"future_tasks": True, "max_examples": None}
    assert options(max_examples=5).decisive() != options().decisive()


def test_a_search_reads_the_last_row_where_nothing_looks_earlier() -> None:
    needed = options().needed("average_accuracy", None)
    assert [row for row in range(-1, TASKS) if needed.measures_row(row, TASKS)] == [TASKS - 1]


def test_a_pruner_reads_the_rows_from_its_grace_on() -> None:
    needed = options().needed("pooled_accuracy", 4)
    assert [row for row in range(-1, TASKS) if needed.measures_row(row, TASKS)] == list(range(3, TASKS))
    assert not needed.measures_future(TASKS)


@pytest.mark.parametrize("metric", ["average_incremental_accuracy", "pooled_average_incremental_accuracy"])
def test_a_mean_over_rows_reads_all_of_them_and_no_future_task(metric: str) -> None:
    needed = options().needed(metric, None)
    assert all(needed.measures_row(row, TASKS) for row in range(TASKS))
    assert not needed.measures_future(TASKS)


def test_a_search_reads_its_rows_where_final_trials_measure_the_last_alone() -> None:
    """Else a pruner would never prune, and a mean over rows would be that of one."""
    last = options(every="end")
    for metric, pruned_from, first in (("average_accuracy", 4, 3), ("average_incremental_accuracy", None, 0)):
        needed = last.needed(metric, pruned_from)
        assert [row for row in range(TASKS) if needed.measures_row(row, TASKS)] == list(range(first, TASKS))
    assert last.needed("average_accuracy", None).every == "end"


def test_a_search_that_is_asked_for_all_measures_all() -> None:
    asked = options(search="all")
    assert asked.needed("average_accuracy", None) == asked


def test_a_long_stream_is_sampled_in_a_search_too() -> None:
    assert options().needed("average_incremental_accuracy", None).sample(101) == options().sample(101) == 20
    assert options(tasks="all").needed("average_incremental_accuracy", None).sample(101) is None


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ({}, {"every": 3}),
        ({"every": 2}, {"every": 4}),
        ({"every": 2}, {"every": "end"}),
        ({"from_task": 2}, {"from_task": 3}),
        ({"tasks": "all"}, {"tasks": "seen"}),
        ({"tasks": "seen"}, {"tasks": {"sample": 3}}),
        ({"tasks": {"sample": 4}}, {"tasks": {"sample": 3}}),
        ({"every": 3}, {"every": 3, "from_task": 5}),
        ({"diagnostics": ["dead_units", "stable_rank"]}, {"diagnostics": ["stable_rank"]}),
        ({"diagnostics": ["dead_units"]}, {}),
    ],
)
def test_more_cells_answer_for_less_and_never_the_other_way(more: dict[str, Any], less: dict[str, Any]) -> None:
    assert options(**more).covers(options(**less), TASKS)
    assert not options(**less).covers(options(**more), TASKS)
    assert options(**less).covers(options(**less), TASKS)


def test_neither_covers_the_other_where_each_has_rows_of_its_own() -> None:
    three, four = options(every=3), options(every=4)
    assert not three.covers(four, TASKS)
    assert not four.covers(three, TASKS)


def test_it_says_in_words_what_is_measured() -> None:
    assert options().told(TASKS) == ""
    assert options(tasks={"sample": 20}).told(TASKS) == ""
    assert options(every="end").told(TASKS) == "the last row alone"
    told = options(every=2, from_task=4, tasks={"sample": 3}).told(TASKS)
    assert told == "every 2 tasks, from task 4 on, 3 earlier tasks of each row, and the whole last row"
