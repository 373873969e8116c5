"""A sweep file and a results folder for commands to meet."""

from __future__ import annotations

from pathlib import Path

import pytest
from mistakes import TASKS, TINY, learned


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A results folder with one trial that has ended."""
    return learned(tmp_path / "results", TASKS)
