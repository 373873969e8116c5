"""Tables of before are read: a cost that came later is null there, and never a wrong number."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest
from results.made_results import PROVENANCE, row, rows, spec

from raycl.matrix import COST_COLUMNS, Cost, TaskRow, Verdict
from raycl.results import schema
from raycl.results.reading import read_trials
from raycl.results.seed_columns import SEED_COLUMNS, seeds_in
from raycl.results.store import ResultsFolder
from raycl.results.trackers.mlflow_metrics import metrics_of
from raycl.spec.seeds import RunSeeds

STORED = Path(__file__).parent / "stored" / "rows_before_meter.parquet"
"""The rows of ``made_results``, written by the code from before forward and backward rows were counted."""


def counted(task: int, forwards: int, gradients: int) -> TaskRow:
    made = row(task, [10, 10, 10])
    return dataclasses.replace(
        made, cost=dataclasses.replace(made.cost, forward_examples=forwards, gradient_examples=gradients)
    )


def test_rows_of_before_are_read_with_what_they_have() -> None:
    table = schema.from_parquet(STORED.read_bytes(), "old")
    assert set(COST_COLUMNS) - set(table.column_names) == set(schema.COUNTED_LATER)
    for found, made in zip(schema.rows_of(table), rows(), strict=True):
        assert (found.task, found.correct.tolist(), found.cost) == (made.task, made.correct.tolist(), made.cost)
        assert (found.cost.forward_examples, found.cost.gradient_examples) == (None, None)


def test_a_cost_that_every_result_has_must_be_there() -> None:
    table = schema.from_parquet(STORED.read_bytes(), "old").drop_columns(["updates"])
    with pytest.raises(KeyError, match="updates"):
        schema.rows_of(table)


def test_rows_come_back_as_they_were_written() -> None:
    made = [counted(0, 7, 5), row(1, [1, 2, 3])]
    found = schema.rows_of(schema.from_parquet(schema.to_parquet(schema.rows_table(made)), "new", schema.ROWS))
    assert [one.cost for one in found] == [one.cost for one in made]
    assert found[0].cost == Cost(1.0, 0.5, 0.1, 7, 70, 1000, 4000, 500, 5, 7, 5)


def _ended(results: ResultsFolder, made: list[TaskRow], seed: int) -> dict[str, object]:
    store = results.trial(spec(seed=seed))
    attempt = store.begin()
    for one in made:
        store.write_task(attempt, one.task, [one], {"state.json": b"{}"})
    store.finish(Verdict("finished", task=made[-1].task), PROVENANCE)
    (found,) = [trial for trial in read_trials(results).to_pylist() if trial["seed"] == seed]
    return dict(found)


def test_counts_add_up_over_tasks_and_are_null_where_a_task_has_none(results: ResultsFolder) -> None:
    whole = _ended(results, [counted(0, 7, 5), counted(1, 70, 50)], 10)
    assert (whole["forward_examples"], whole["gradient_examples"]) == (77, 55)
    continued = _ended(results, [row(0, [1, 2, 3]), counted(1, 70, 50)], 11)
    assert (continued["forward_examples"], continued["gradient_examples"], continued["examples"]) == (None, None, 140)


def test_a_folder_of_before_has_the_columns_as_nulls(results: ResultsFolder) -> None:
    _ended(results, [row(0, [1, 2, 3])], 10)
    part = Path(results.uri) / f"parts/trials/{spec(seed=10).hash}.parquet"
    old = schema.from_parquet(part.read_bytes(), "part").drop_columns(list(schema.COUNTED_LATER))
    part.write_bytes(schema.to_parquet(old))
    trials = read_trials(results)
    assert trials["forward_examples"].to_pylist() == [None]
    assert trials.schema.field("forward_examples").type == pa.int64()


def test_a_tracker_logs_what_was_counted() -> None:
    logged = {name for _, name, _ in metrics_of(rows())}
    assert "cost/updates" in logged
    assert "cost/forward_examples" not in logged
    values = {name: value for _, name, value in metrics_of([counted(0, 7, 5)])}
    assert (values["cost/forward_examples"], values["cost/gradient_examples"]) == (7.0, 5.0)


RUN = RunSeeds(class_order=10, split=2, model=3, batches=4)


def _seeds(trial: dict[str, object]) -> list[object]:
    return [trial[name] for name in ("seed", *SEED_COLUMNS)]


def test_every_row_has_the_seeds_of_all_sources(results: ResultsFolder) -> None:
    assert _seeds(_ended(results, [row(0, [1, 2, 3])], 11)) == [11] * 5
    store = results.trial(spec(seed=10, seeds=RUN))
    store.write_task(store.begin(), 0, [row(0, [1, 2, 3])], {"state.json": b"{}"})
    store.finish(Verdict("finished", task=0), PROVENANCE)
    (found,) = [trial for trial in read_trials(results).to_pylist() if trial["seed"] is None]
    assert _seeds(found) == [None, 10, 2, 3, 4]
    assert seeds_in(found) == RUN


def test_a_folder_of_before_has_the_runs_seed_for_every_source(results: ResultsFolder) -> None:
    _ended(results, [row(0, [1, 2, 3])], 10)
    part = Path(results.uri) / f"parts/trials/{spec(seed=10).hash}.parquet"
    old = schema.from_parquet(part.read_bytes(), "part").drop_columns(list(SEED_COLUMNS))
    part.write_bytes(schema.to_parquet(old))
    assert [_seeds(trial) for trial in read_trials(results).to_pylist()] == [[10] * 5]
