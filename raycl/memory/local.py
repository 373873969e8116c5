"""Where the rows of a replay memory live: the storage protocol, and the storage in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from raycl.memory.buffer import Table
from raycl.memory.columns import Columns, ColumnTypes

Fetch = Callable[[], Table]
"""Completes a read that was begun; called once."""


class Storage(Protocol):
    """Rows by slot. Reads and writes take effect in the order in which they are begun."""

    def declare(self, schema: ColumnTypes) -> None:
        """Make columns exist, at least as wide as the schema says; rows without an entry hold NaN (0 for integers)."""
        ...

    def write(self, slots: Tensor, columns: Table) -> None:
        """Overwrite declared columns of distinct slots int64 ``[n]``; new slots need every column."""
        ...

    def begin_read(self, slots: Tensor) -> Fetch:
        """Begin to read the rows in ``slots`` as they are now; later writes do not show."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class LocalStorage:
    """Rows in this process."""

    def __init__(self) -> None:
        self._columns = Columns()

    def declare(self, schema: ColumnTypes) -> None:
        self._columns.declare(schema)

    def write(self, slots: Tensor, columns: Table) -> None:
        self._columns.write(slots.numpy(), {name: column.numpy() for name, column in columns.items()})

    def begin_read(self, slots: Tensor) -> Fetch:
        arrays = self._columns.read(slots.numpy())
        return lambda: {name: torch.from_numpy(array) for name, array in arrays.items()}

    def close(self) -> None:
        self._columns = Columns()
