"""A running sweep in a notebook: one table, which is written anew."""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

from raycl.results.html import as_html
from raycl.sweep.status import SweepStatus
from raycl.sweep.status_table import StatusTable

REDRAWN_EVERY = 1.0
"""Seconds between two tables, at the least: each travels to the browser."""


class NotebookTable:
    """Takes statuses: ``run_sweep(..., on_status=NotebookTable("name"))``. Needs IPython."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown = _display().DisplayHandle()
        self._shown.display(_display().HTML(""))
        self._last = float("-inf")
        self._kept: SweepStatus | None = None

    def __call__(self, status: SweepStatus) -> None:
        """Show a status, unless one was shown a moment ago."""
        self._kept = status
        if time.monotonic() - self._last >= REDRAWN_EVERY:
            self.finish()

    def finish(self) -> None:
        """Show the last status there was."""
        if self._kept is not None:
            self._last = time.monotonic()
            self._shown.update(_display().HTML(as_html(StatusTable(self._name, self._kept))))
            self._kept = None


def _display() -> Any:
    """IPython's module; it has no types."""
    return import_module("IPython.display")
