"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real MNIST and CIFAR subsets; tests that need it skip where it is absent."""
    beside = Path(__file__).parents[1].parent / "shared" / "data"
    root = Path(os.environ.get("RAYCL_DATA", beside))
    if not (root / "MNIST").is_dir():
        pytest.skip(f"no data sets under {root}; set RAYCL_DATA")
    return root
