"""The second matrix of a trial of a table: the same cells as its first, on test data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from raycl.matrix import TaskRow

TESTED = "tested"
"""A further column of a trial's rows: correct and total counts on test data."""
TESTED_COUNTS = pa.struct({"correct": pa.list_(pa.int32()), "total": pa.list_(pa.int32())})

Counts: TypeAlias = tuple[np.ndarray, np.ndarray]


def column(rows: Sequence[TaskRow]) -> pa.Array | None:
    """:data:`TESTED`; None where no row was measured on test data beside other data."""
    if all(row.tested is None for row in rows):
        return None
    found = [None if row.tested is None else [counts.tolist() for counts in row.tested] for row in rows]
    return pa.array([own and dict(zip(TESTED_COUNTS.names, own, strict=True)) for own in found], TESTED_COUNTS)


def tested_of(stored: Mapping[str, list[int]] | None) -> Counts | None:
    """The inverse of an entry of :func:`column`."""
    if stored is None:
        return None
    return np.array(stored["correct"], dtype=np.int64), np.array(stored["total"], dtype=np.int64)
