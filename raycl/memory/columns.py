"""Rows by slot in numpy arrays. Without torch, so that a replay actor starts fast and stays small."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

ColumnTypes = dict[str, tuple[str, tuple[int, ...]]]
"""For each column its numpy dtype and the shape of one entry."""

Arrays = dict[str, np.ndarray]


def absent(rows: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """``[rows, *shape]`` of what was never stored: NaN, or 0 for whole numbers."""
    fill = np.nan if np.issubdtype(np.dtype(dtype), np.floating) else 0
    return np.full((rows, *shape), fill, dtype=dtype)


def widened(column: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``column`` with entries of ``shape``, at least as large in every dimension; new numbers are absent."""
    if column.shape[1:] == shape:
        return column
    wide = absent(len(column), column.dtype.str, shape)
    wide[(slice(None), *(slice(size) for size in column.shape[1:]))] = column
    return wide


class Columns:
    """Rows by slot. Columns are allocated with the first rows and grow with the slots; unused memory is not touched."""

    def __init__(self) -> None:
        self._rows = 0
        self._columns: Arrays = {}

    def declare(self, schema: ColumnTypes) -> None:
        """Make columns exist, at least as wide as the schema says; what rows lack is absent."""
        for name, (dtype, shape) in schema.items():
            if name not in self._columns:
                self._columns[name] = absent(self._rows, dtype, shape)
            else:
                self._columns[name] = widened(self._columns[name], shape)

    def write(self, slots: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        """Overwrite declared columns of distinct slots ``[n]``; new slots need every column."""
        if len(slots):
            self._reserve(int(slots.max()) + 1)
        for name, column in columns.items():
            self._columns[name][slots] = column

    def read(self, slots: np.ndarray) -> Arrays:
        """A copy of the rows in slots ``[n]``, in that order."""
        return {name: column.take(slots, axis=0) for name, column in self._columns.items()}

    def _reserve(self, rows: int) -> None:
        if rows <= self._rows:
            return
        rows = max(rows, 2 * self._rows)
        for name, column in self._columns.items():
            larger = np.empty((rows, *column.shape[1:]), dtype=column.dtype)
            larger[: self._rows] = column
            self._columns[name] = larger
        self._rows = rows
