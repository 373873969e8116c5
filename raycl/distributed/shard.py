"""The replay actor's own code: numpy only, so that its process starts fast and stays small."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Client, Connection
from threading import Thread

import numpy as np

from raycl.memory.columns import Columns, ColumnTypes

SlotChange = tuple[ColumnTypes, np.ndarray, Mapping[str, np.ndarray]]
"""Columns to declare, then slots int64 ``[n]`` and the columns to write there."""

Message = tuple[SlotChange | None, np.ndarray | None]
"""A change, or the slots int64 ``[n]`` to read: an answer follows; neither: forget everything."""


class ReplayShard:
    """Rows by slot, for the one process that holds the other end of the line."""

    def __init__(self) -> None:
        self._columns = Columns()

    def join(self, address: str) -> None:
        """Call the process that listens at ``address``, and do what it says for as long as the line stands."""
        Thread(target=self._serve, args=(Client(address),), daemon=True).start()

    def _serve(self, line: Connection) -> None:
        """Handle messages in order; an answer is the pickled columns of the rows that are asked for."""
        with line, suppress(EOFError, ConnectionError):
            while True:
                change, slots = pickle.loads(line.recv_bytes())
                if change is None and slots is None:
                    self._columns = Columns()
                if change is not None:
                    schema, written, columns = change
                    self._columns.declare(schema)
                    self._columns.write(written, columns)
                if slots is not None:
                    line.send_bytes(pickle.dumps(self._columns.read(slots), pickle.HIGHEST_PROTOCOL))
