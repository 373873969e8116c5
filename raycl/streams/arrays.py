"""Data sets that are arrays already, or that a user's function loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raycl.streams.datasets import Images, Info

GivenArrays = Images | tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Training images uint8 ``[n, channels, height, width]``, their labels ``[n]``, test images and test labels."""

Load = Callable[[Path | None], GivenArrays]
"""The folder of the data sets -> a data set."""


@dataclass(frozen=True)
class ArraysInMemory:
    """A data set in memory."""

    images: Images
    info: Info

    def load(self, data_root: Path | None) -> Images:
        return self.images


@dataclass(frozen=True)
class LoadedBy:
    """A data set of whatever a user's function loads."""

    read: Load
    info: Info | None = None

    def load(self, data_root: Path | None) -> Images:
        found = self.read(data_root)
        return found if isinstance(found, Images) else from_arrays(*found)


def from_arrays(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> Images:
    """Copies of arrays as a data set; images uint8 ``[n, channels, height, width]``, class ids ``[n]``."""
    return Images(np.array(x), np.array(y, dtype=np.int64), np.array(x_test), np.array(y_test, dtype=np.int64))
