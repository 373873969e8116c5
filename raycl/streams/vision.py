"""The classic image sets, read from torchvision's own layout under the data root, which also downloads them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raycl.addresses import DOWNLOAD_VARIABLE, downloads_allowed
from raycl.errors import DataError
from raycl.streams import idx
from raycl.streams.datasets import Images, Info


@dataclass(frozen=True)
class VisionSet:
    """One of torchvision's data sets.

    Attributes:
        kind: its class in ``torchvision.datasets``.
        folder: where that class keeps its files, relative to the data root.
        read: the images of a data root and that folder below it.
    """

    kind: str
    folder: str
    info: Info
    read: Callable[[VisionSet, Path], Images]

    def load(self, data_root: Path | None) -> Images:
        """Read the images; download them first where ``RAYCL_DOWNLOAD=1`` and they are absent.

        Raises:
            DataError: no data root, no files, or damaged files.
        """
        if data_root is None:
            raise DataError(f"{self.kind} needs a data root (got none); pass --data-root or set RAYCL_DATA")
        place = data_root / self.folder
        if not place.is_dir():
            if not downloads_allowed():
                raise DataError(
                    f"{self.kind} was not found (looked in {place}); put torchvision's files there, "
                    f"or set {DOWNLOAD_VARIABLE}=1 to download them"
                )
            self._download(data_root, place)
        try:
            return self.read(self, data_root)
        except (RuntimeError, OSError, ValueError, TypeError, EOFError, AssertionError) as error:
            raise DataError(
                f"{self.kind} cannot be read from {place} ({type(error).__name__}: {error}); "
                f"remove that folder and fetch it again, for example with {DOWNLOAD_VARIABLE}=1"
            ) from error

    def _download(self, root: Path, place: Path) -> None:
        """Download beside the final place and move, so that no other process ever sees half a data set."""
        from torchvision import datasets

        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{self.kind}-", dir=root) as beside:
                for train in (True, False):
                    getattr(datasets, self.kind)(root=beside, train=train, download=True)
                if not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(Path(beside) / self.folder, place)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"{self.kind} could not be downloaded to {place} ({error}); fetch it by other means"
            ) from error


def _of_idx(dataset: VisionSet, root: Path) -> Images:
    return idx.read_images(root / dataset.folder)


def _of_torchvision(dataset: VisionSet, root: Path) -> Images:
    """From torchvision's classes, which check that the files are those that they know."""
    from torchvision import datasets

    kind = getattr(datasets, dataset.kind)
    train, test = (kind(root=str(root), train=train, download=False) for train in (True, False))
    return Images(_pixels(train.data), _labels(train.targets), _pixels(test.data), _labels(test.targets))


def _pixels(data: np.ndarray) -> np.ndarray:
    """``[n, h, w, c]`` -> contiguous uint8 ``[n, c, h, w]``."""
    return np.ascontiguousarray(data.transpose(0, 3, 1, 2))


def _labels(targets: Any) -> np.ndarray:
    return np.asarray(targets, dtype=np.int64)


_GREY = Info((1, 28, 28), 10, 60000, 10000)

MNIST = VisionSet("MNIST", "MNIST/raw", _GREY, _of_idx)
FASHION_MNIST = VisionSet("FashionMNIST", "FashionMNIST/raw", _GREY, _of_idx)
KMNIST = VisionSet("KMNIST", "KMNIST/raw", _GREY, _of_idx)
CIFAR10 = VisionSet("CIFAR10", "cifar-10-batches-py", Info((3, 32, 32), 10, 50000, 10000), _of_torchvision)
CIFAR100 = VisionSet("CIFAR100", "cifar-100-python", Info((3, 32, 32), 100, 50000, 10000), _of_torchvision)
