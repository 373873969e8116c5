"""The tables of a sweep's data set, and their bytes as Parquet.

``rows``: one row per learned task of one trial, with its counts as lists; the trial's own log.
``cells``: one row per cell of the accuracy matrix, long; cells without examples are left out.
``tested``: the same cells on test data, of trials of a table, whose ``cells`` are of validation data.
``trials``: one row per trial: who, how it ended, metrics, cost, hyperparameters as typed columns ``hp.*``, and
numbers of the method's own after the last task as ``measure.*``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycl.errors import TornFile
from raycl.matrix import COST_COLUMNS, METRICS, AccuracyMatrix, Cost, Online, Points, TaskRow
from raycl.results import choices, tested
from raycl.results.hyperparameters import HP, settled
from raycl.results.inside import inside_metrics
from raycl.results.seed_columns import SEED_COLUMNS, seed_values
from raycl.spec.trial import TrialSpec

SCHEMA_VERSION = 1
_METADATA = {"raycl.schema_version": str(SCHEMA_VERSION)}

_COST_TYPES = {
    field.name: pa.float64() if field.type in ("float", float) else pa.int64() for field in dataclasses.fields(Cost)
}

ROWS = pa.schema(
    [
        pa.field("task", pa.int32(), nullable=False),
        pa.field("correct", pa.list_(pa.int32()), nullable=False),
        pa.field("total", pa.list_(pa.int32()), nullable=False),
        *(pa.field(name, kind) for name, kind in _COST_TYPES.items()),
    ],
    metadata=_METADATA,
)

MEASURES = "measures"
"""A further column of rows with numbers of the method's own, or diagnostics, as JSON: name -> value."""
POINTS = pa.struct({name: pa.list_(pa.int32()) for name in ("update", "tasks", "correct", "total")})
"""A further column ``points``, where accuracies were measured inside tasks: :class:`raycl.matrix.Points`, flattened."""
ONLINE = pa.struct({"correct": pa.int64(), "total": pa.int64()})
"""A further column ``online``, where examples were predicted before they were learned."""


def _keyed(**columns: pa.DataType) -> pa.Schema:
    """A table of one trial's numbers beside its name; none of them is null."""
    fields = [pa.field(name, kind, nullable=False) for name, kind in {"trial": pa.string(), **columns}.items()]
    return pa.schema(fields, metadata=_METADATA)


CELLS = _keyed(train_task=pa.int32(), eval_task=pa.int32(), correct=pa.int32(), total=pa.int32())
INSIDE = _keyed(train_task=pa.int32(), update=pa.int32(), eval_task=pa.int32(), correct=pa.int32(), total=pa.int32())
"""Accuracies while tasks were learned, one row per point and task; ``update`` counts within ``train_task``."""
ONLINE_ROWS = _keyed(train_task=pa.int32(), correct=pa.int64(), total=pa.int64())
"""Examples of each task that were predicted before they were learned."""
MEASURE_ROWS = _keyed(train_task=pa.int32(), name=pa.string(), value=pa.float64())
"""Numbers of the method's own after each task, and the diagnostics of the network before it, one row for each."""

COUNTED_LATER = ("forward_examples", "gradient_examples", "budget_spent")
"""Costs that results of before do not have: null where they are read."""

PROVENANCE = {
    "raycl": pa.string(),
    "commit": pa.string(),
    "code": pa.string(),
    "data": pa.string(),
    "split_hash": pa.string(),
    "torch": pa.string(),
    "threads": pa.int32(),
    "cpu_capability": pa.string(),
    "active_logits": pa.string(),
    "inference_batch": pa.int32(),
    "upper_bound": pa.bool_(),
    "num_tasks": pa.int32(),
}
"""What the session knows and the spec does not: raycl's version and commit, fingerprints of the method's code and of
the data's content, and so on. What ``auto`` came to (``resolved``) stands in the columns ``hp.*``; further keys are
kept as JSON in the column ``provenance``."""

TRIALS = pa.schema(
    [
        *(
            pa.field(name, pa.string())
            for name in ("trial", "sweep", "variant", "alias", "strategy", "phase", "scenario")
        ),
        *(pa.field(name, pa.int64()) for name in ("seed", *SEED_COLUMNS)),
        *(pa.field(name, pa.string()) for name in ("scored_on", "trained_on", "selected_by", "status", "reason")),
        pa.field("value", pa.float64()),
        pa.field("tasks_done", pa.int32()),
        *(pa.field(name, kind) for name, kind in PROVENANCE.items()),
        pa.field("provenance", pa.string()),
        *(pa.field(name, pa.float64()) for name in METRICS),
        *(pa.field(name, kind) for name, kind in _COST_TYPES.items()),
        pa.field("spec", pa.string()),
    ],
    metadata=_METADATA,
)
"""``*_seconds`` add up over tasks and attempts, ``updates`` and counts of examples over tasks, null where a task
has none; parameters, bytes and the buffer's examples are those after the last task. ``selected_by`` names the data that
chose the point."""


def to_parquet(table: pa.Table, compression: str = "zstd", notes: Mapping[str, str] | None = None) -> bytes:
    """Parquet bytes; nothing is opened before all of them are there.

    Statistics and Arrow's copy of the schema are left out: a sweep has many small files, of which they are the most.

    Args:
        notes: further texts for the file's metadata; it is then one of the data set, with pages that are sealed by
            checksums and fields that keep what is said of them.
    """
    sink = pa.BufferOutputStream()
    many = table.num_rows > 1
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression=compression,
        use_dictionary=many,
        write_statistics=False,
        store_schema=notes is not None,
        write_page_checksum=notes is not None,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({**_METADATA, **(notes or {})})
    return bytes(sink.getvalue())


def in_groups(tables: Iterable[pa.Table], schema: pa.Schema) -> bytes | None:
    """Tables one after another in one file, each of them read alone by the first and the last of its trials.

    Only one is held at a time beside the bytes. None where there are no rows.
    """
    sink = pa.BufferOutputStream()
    options = {"compression": "zstd", "write_statistics": ["trial"], "write_page_checksum": True}
    rows = 0
    with pq.ParquetWriter(sink, schema, **options) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            rows += table.num_rows
        writer.add_key_value_metadata(_METADATA)
    return bytes(sink.getvalue()) if rows else None


def notes_of(source: pa.NativeFile, name: str) -> dict[str, str]:
    """The texts in the metadata of a Parquet file.

    Raises:
        TornFile: it is no complete Parquet file.
    """
    with _read(name):
        stored = pq.ParquetFile(source).metadata.metadata or {}
    return {key.decode(): text.decode(errors="replace") for key, text in stored.items()}


def from_parquet(
    data: bytes | pa.NativeFile, name: str, schema: pa.Schema | None = None, trials: Collection[str] | None = None
) -> pa.Table:
    """Read Parquet bytes, or a file that is open.

    Args:
        trials: the trials whose rows are wanted; default: all.

    Raises:
        TornFile: the bytes are no complete Parquet file of this schema; the message names ``name`` and the remedy.
    """
    with _read(name):
        source = data if isinstance(data, pa.NativeFile) else pa.BufferReader(data)
        file = pq.ParquetFile(source, page_checksum_verification=True)
        if trials is None:
            table = file.read(use_threads=False)
        else:
            table = file.read_row_groups(_groups(file, trials), use_threads=False)
            table = table.filter(pc.is_in(table["trial"], pa.array(sorted(trials), pa.string())))
        return table if schema is None else table.cast(schema)


def _groups(file: pq.ParquetFile, trials: Collection[str]) -> list[int]:
    """Groups of a file that may hold rows of these trials; all of those that do not say what they hold."""
    found = []
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        column = next(group.column(at) for at in range(group.num_columns) if group.column(at).path_in_schema == "trial")
        told = column.statistics
        if told is None or any(told.min <= trial <= told.max for trial in trials):
            found.append(number)
    return found


@contextmanager
def _read(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TornFile(
            f"{name}: not a complete Parquet result ({error}); `raycl resume` on the results folder repairs it: "
            "a trial's parts are written again from its task rows"
        ) from error


def rows_table(rows: Sequence[TaskRow]) -> pa.Table:
    """Task rows as a table of schema :data:`ROWS`."""
    columns: dict[str, Any] = {
        "task": [row.task for row in rows],
        "correct": [np.asarray(row.correct, dtype=np.int32) for row in rows],
        "total": [np.asarray(row.total, dtype=np.int32) for row in rows],
    }
    columns |= {name: [getattr(row.cost, name) for row in rows] for name in COST_COLUMNS}
    table = pa.table(columns, schema=ROWS)
    if any(row.measures for row in rows):
        measures = [json.dumps(dict(row.measures), sort_keys=True) for row in rows]
        table = table.append_column(MEASURES, pa.array(measures, pa.string()))
    for name, kind in (("points", POINTS), ("online", ONLINE)):
        found = [getattr(row, name) for row in rows]
        if any(value is not None for value in found):
            table = table.append_column(name, pa.array([value and _flat(value) for value in found], kind))
    for name, values in ((choices.COLUMN, choices.column(rows)), (tested.TESTED, tested.column(rows))):
        table = table if values is None else table.append_column(name, values)
    return table


def _flat(value: Points | Online) -> dict[str, Any]:
    return {
        name: np.ravel(column).tolist() if isinstance(value, Points) else column for name, column in vars(value).items()
    }


def rows_of(table: pa.Table) -> list[TaskRow]:
    """The task rows of a table of schema :data:`ROWS`; those of before lack :data:`MEASURES`, :data:`COUNTED_LATER`."""
    measures = table[MEASURES].to_pylist() if MEASURES in table.column_names else ["{}"] * table.num_rows
    stored = [name for name in COST_COLUMNS if name not in COUNTED_LATER or name in table.column_names]
    costs = table.select(stored).to_pylist()
    columns = (table["task"].to_pylist(), table["correct"], table["total"], costs, measures)
    inside = tuple(_optional(table, name) for name in ("points", "online", choices.COLUMN, tested.TESTED))
    return [
        TaskRow(
            task,
            _counts(correct),
            _counts(total),
            Cost(**cost),
            json.loads(own or "{}"),
            _points(points),
            online and Online(**online),
            choices.tried_of(tried),
            tested.tested_of(also),
        )
        for task, correct, total, cost, own, points, online, tried, also in zip(*columns, *inside, strict=True)
    ]


def _optional(table: pa.Table, name: str) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * table.num_rows


def _points(stored: Mapping[str, list[int]] | None) -> Points | None:
    if stored is None:
        return None
    update, tasks, correct, total = (np.array(stored[name], dtype=np.int64) for name in POINTS.names)
    return Points(update, tasks, correct.reshape(len(update), len(tasks)), total)


def cells_table(trial: str, rows: Sequence[TaskRow]) -> pa.Table:
    """The cells of a trial's matrix, in row order; null cells are left out."""
    sizes = [len(row.total) for row in rows]
    correct = np.concatenate([row.correct for row in rows] or [np.empty(0)]).astype(np.int32)
    total = np.concatenate([row.total for row in rows] or [np.empty(0)]).astype(np.int32)
    learned = np.repeat(np.array([row.task for row in rows], dtype=np.int32), sizes)
    evaluated = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes] or [np.empty(0, np.int32)])
    kept = total > 0
    names = pa.DictionaryArray.from_arrays(np.zeros(int(kept.sum()), np.int32), pa.array([trial])).cast(pa.string())
    return pa.table([names, learned[kept], evaluated[kept], correct[kept], total[kept]], schema=CELLS)


def tested_table(trial: str, rows: Sequence[TaskRow]) -> pa.Table:
    """The cells of the matrix on test data, of a trial that has one beside its first."""
    found = [row for row in rows if row.tested is not None]
    return cells_table(trial, [TaskRow(row.task, *row.tested) for row in found if row.tested is not None])


def inside_table(trial: str, rows: Sequence[TaskRow]) -> pa.Table:
    """What was measured while a trial's tasks were learned, by task, update and evaluated task."""
    tables = []
    for row in rows:
        if row.points is not None:
            points, (count, tasks) = row.points, row.points.correct.shape
            columns = [
                np.repeat(points.update, tasks),
                np.tile(points.tasks, count),
                points.correct.ravel(),
                np.tile(points.total, count),
            ]
            columns = [np.full(count * tasks, row.task), *columns]
            names = pa.array([trial] * (count * tasks))
            tables.append(pa.table([names, *(column.astype(np.int32) for column in columns)], schema=INSIDE))
    return pa.concat_tables(tables) if tables else INSIDE.empty_table()


def online_table(trial: str, rows: Sequence[TaskRow]) -> pa.Table:
    """The examples of each task that were predicted before they were learned."""
    found = [(row.task, row.online) for row in rows if row.online is not None]
    columns = [[trial] * len(found), [task for task, _ in found]]
    columns += [[getattr(online, name) for _, online in found] for name in ("correct", "total")]
    return pa.table(columns, schema=ONLINE_ROWS)


def measures_table(trial: str, rows: Sequence[TaskRow]) -> pa.Table:
    """The numbers of a trial's tasks, by task and name."""
    found = [(row.task, name, value) for row in rows for name, value in sorted(row.measures.items())]
    columns = [[trial] * len(found), *([each[place] for each in found] for place in range(3))]
    return pa.table(columns, schema=MEASURE_ROWS)


def trials_table(
    sweep: str,
    spec: TrialSpec,
    ending: Mapping[str, Any],
    provenance: Mapping[str, Any],
    rows: Sequence[TaskRow],
    seconds: Mapping[str, float],
) -> pa.Table:
    """The one row of a trial.

    Args:
        ending: status, reason, value of the verdict.
        seconds: the cost columns that add up over attempts, by name.
    """
    learned = [row for row in rows if row.task >= 0]
    told = {*PROVENANCE, "resolved"}
    num_tasks = int(provenance.get("num_tasks") or max((len(row.total) for row in rows), default=0))
    values: dict[str, Any] = {
        "trial": spec.hash,
        "sweep": sweep,
        **{name: getattr(spec, name) for name in ("variant", "alias", "strategy", "phase")},
        **seed_values(spec),
        "scenario": spec.stream.get("scenario"),
        "scored_on": spec.score_on,
        "trained_on": spec.train_on,
        "selected_by": spec.selected_by,
        **ending,
        "tasks_done": learned[-1].task + 1 if learned else 0,
        **{name: provenance.get(name) for name in PROVENANCE},
        "num_tasks": num_tasks or None,
        "provenance": json.dumps({k: v for k, v in provenance.items() if k not in told}, sort_keys=True),
        **_finite(AccuracyMatrix.of(rows, num_tasks).metrics() if learned else {}),
        **cost_columns(learned, seconds),
        "spec": json.dumps(spec.model_dump(mode="json"), sort_keys=True),
    }
    table = pa.table({field.name: pa.array([values.get(field.name)], field.type) for field in TRIALS}, schema=TRIALS)
    for name, value in inside_metrics(learned).items():
        table = table.append_column(name, pa.array([value], pa.float64()))
    for name, value in sorted(learned[-1].measures.items() if learned else ()):
        table = table.append_column(f"measure.{name}", pa.array([value], pa.float64()))
    ran_with = spec.hyperparameters() | provenance.get("resolved", {})
    for name, value in sorted(ran_with.items()):  # one order, however the options were read
        table = table.append_column(f"{HP}{name}", pa.array([value]))
    return settled(table).replace_schema_metadata(_METADATA)


def _counts(scalar: pa.ListScalar) -> np.ndarray:
    return np.asarray(scalar.values.to_numpy(zero_copy_only=False), dtype=np.int64)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    """Undefined metrics are null in tables, as NaN would poison a mean."""
    return {name: value for name, value in values.items() if np.isfinite(value)}


def cost_columns(learned: Sequence[TaskRow], seconds: Mapping[str, float]) -> dict[str, Any]:
    """What a trial has cost: sums of what is counted, and what is held after the last task."""
    if not learned:
        return dict(seconds)
    last = learned[-1].cost
    sums = {
        name: _sum([getattr(row.cost, name) for row in learned]) for name in ("updates", "examples", *COUNTED_LATER)
    }
    return {name: getattr(last, name) for name in COST_COLUMNS} | sums | dict(seconds)


def _sum(counts: Sequence[int | None]) -> int | None:
    """A total of which a part is not known is not known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
