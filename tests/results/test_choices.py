"""What a trial tried between two tasks, as rows keep it and as a table shows it."""

from __future__ import annotations

import json

import numpy as np

from raycl.matrix import TaskRow, Tried
from raycl.results import schema
from raycl.results.choices import CHOICES, choices_table

NOTHING = np.zeros(2, dtype=np.int64)
TRIED = (
    Tried("plastic", 1, {"training.learning_rate": 0.1, "penalty": 0.0}, 0.75),
    Tried("stable", 1, {"training.learning_rate": 0.1, "penalty": 8.0}, None, failure="not finite"),
    Tried("stable", 1, {"training.learning_rate": 0.1, "penalty": 4.0}, 0.7, kept=True),
)
ROWS = [TaskRow(-1, NOTHING, NOTHING), TaskRow(0, NOTHING, NOTHING, tried=TRIED)]


def test_rows_keep_what_was_tried_and_those_of_before_have_none() -> None:
    stored = schema.from_parquet(schema.to_parquet(schema.rows_table(ROWS)), "rows")
    assert [row.tried for row in schema.rows_of(stored)] == [(), TRIED]
    plain = schema.rows_table([TaskRow(0, NOTHING, NOTHING)])
    assert plain.schema.equals(schema.ROWS), "trials that choose nothing have no such column"
    assert schema.rows_of(plain)[0].tried == ()


def test_the_table_has_a_row_for_each_training_in_order() -> None:
    table = choices_table("0" * 16, ROWS)
    assert table.schema.equals(CHOICES)
    found = table.to_pylist()
    assert [(row["train_task"], row["training"], row["stage"]) for row in found] == [
        (0, 0, "plastic"),
        (0, 1, "stable"),
        (0, 2, "stable"),
    ]
    assert [row["judged"] for row in found] == [0.75, None, 0.7]
    assert [row["kept"] for row in found] == [False, False, True]
    assert [row["failure"] for row in found] == ["", "not finite", ""]
    assert json.loads(found[1]["values"]) == {"penalty": 8.0, "training.learning_rate": 0.1}
    assert choices_table("0" * 16, ROWS[:1]).num_rows == 0
