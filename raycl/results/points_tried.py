"""The points of a search as a table: what was tried, and what each came to."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from raycl.results.standing import Standing

_FIXED = [("suggestion", pa.int32()), ("status", pa.string()), ("value", pa.float64()), ("reason", pa.string())]


def points_tried(standing: Standing) -> pa.Table:
    """A row for each distinct point that has ended, in the order of the suggestions.

    ``value`` is the search metric on validation data, the mean over the search seeds; null unless the point finished. A
    column for each searched value: numbers as fractions where any of them is one, text where numbers and words mix.
    """
    rows: dict[str, dict[str, Any]] = {}
    for index, (asked, outcome) in enumerate(zip(standing.suggested, standing.outcomes, strict=True)):
        if outcome is not None:
            told = {"suggestion": index, "status": outcome.status, "reason": outcome.reason or None}
            finished = outcome.value if outcome.status == "finished" else None
            rows.setdefault(asked[0].spec.hash, {**told, "value": finished, **outcome.point})
    columns = {name: pa.array([row[name] for row in rows.values()], kind) for name, kind in _FIXED}
    for path in standing.entry.space:
        columns[path] = _column([row.get(path) for row in rows.values()])
    return pa.table(columns)


def _column(values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.array(values, pa.float64())
    return pa.array(values if len(kinds) < 2 else [None if value is None else str(value) for value in values])
