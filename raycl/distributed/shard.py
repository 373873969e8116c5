"""The replay actor's own code: numpy only, so that its process starts fast and stays small."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

import numpy as np

from raycl.memory.columns import Columns, Schema

Change = tuple[Schema, np.ndarray, Mapping[str, np.ndarray]]
"""Columns to declare, then slots int64 ``[n]`` and the columns to write there."""


class ReplayShard:
    """Rows by slot behind one message, since a message costs more than its rows.

    Messages are pickled by hand: Ray's own way of sending arrays costs the trial a quarter more.
    """

    def __init__(self) -> None:
        self._columns = Columns()

    def exchange(self, message: bytes) -> bytes:
        """Apply changes in order, then read.

        Args:
            message: pickled list of :data:`Change`, and the slots int64 ``[n]`` to read, or None.

        Returns:
            Pickled columns of those rows; of nothing, where no slots are given.
        """
        changes, slots = pickle.loads(message)
        for schema, written, columns in changes:
            self._columns.declare(schema)
            self._columns.write(written, columns)
        return pickle.dumps({} if slots is None else self._columns.read(slots), pickle.HIGHEST_PROTOCOL)
