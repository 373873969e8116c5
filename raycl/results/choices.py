"""What trials that choose as they go have tried: a row for each training of a task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from raycl.matrix import TaskRow, Tried

COLUMN = "tried"
"""A further column of a trial's rows, as JSON: a list of :class:`raycl.matrix.Tried`."""
CHOICES = pa.schema(
    [
        pa.field("trial", pa.string(), nullable=False),
        pa.field("train_task", pa.int32(), nullable=False),
        pa.field("training", pa.int32(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("candidate", pa.int32(), nullable=False),
        pa.field("values", pa.string(), nullable=False),
        pa.field("judged", pa.float64()),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("failure", pa.string(), nullable=False),
    ]
)
"""``training`` counts within ``train_task``; ``values`` are JSON, by dotted path."""


def column(rows: Sequence[TaskRow]) -> pa.Array | None:
    """:data:`COLUMN`; None where nothing was tried."""
    if not any(row.tried for row in rows):
        return None
    return pa.array([json.dumps([asdict(own) for own in row.tried]) for row in rows], pa.string())


def tried_of(stored: str | None) -> tuple[Tried, ...]:
    """The inverse of an entry of :func:`column`."""
    return tuple(Tried(**own) for own in json.loads(stored or "[]"))


def choices_table(trial: str, rows: Sequence[TaskRow]) -> pa.Table:
    """Everything that a trial has tried, task by task, in order."""
    found: list[dict[str, Any]] = [
        {
            "trial": trial,
            "train_task": row.task,
            "training": number,
            **asdict(own),
            "values": json.dumps(dict(own.values), sort_keys=True),
        }
        for row in rows
        for number, own in enumerate(row.tried)
    ]
    return pa.Table.from_pylist(found, schema=CHOICES)
