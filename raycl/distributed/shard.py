"""The replay actor's own code: numpy only, so that its process starts fast and stays small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from raycl.memory.columns import Arrays, Columns, Schema

Change = tuple[Schema, np.ndarray, Mapping[str, np.ndarray]]
"""Columns to declare, then slots int64 ``[n]`` and the columns to write there."""


class ReplayShard:
    """Rows by slot behind one message, since a message costs more than its rows."""

    def __init__(self) -> None:
        self._columns = Columns()

    def exchange(self, changes: Sequence[Change], slots: np.ndarray | None) -> Arrays | None:
        """Apply the changes in order, then read the rows in ``slots``."""
        for schema, written, columns in changes:
            self._columns.declare(schema)
            self._columns.write(written, columns)
        return None if slots is None else self._columns.read(slots)
