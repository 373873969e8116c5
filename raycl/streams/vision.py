"""torchvision's classic image sets, read from torchvision's own layout under the data root."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raycl.addresses import DOWNLOAD_VARIABLE, downloads_allowed
from raycl.errors import DataError
from raycl.streams.datasets import Images, Info


@dataclass(frozen=True)
class VisionSet:
    """One of torchvision's data sets.

    Attributes:
        kind: its class in ``torchvision.datasets``.
        folder: where that class keeps its files, relative to the data root.
    """

    kind: str
    folder: str
    info: Info

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
        with ExitStack() as stack:
            packed = _packed(place)
            if not packed:
                root = data_root
            else:  # as they are published; torchvision reads unpacked files only
                root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raycl-")))
                _unpack(place, packed, root / self.folder)
            train, test = self._read(root, place, True), self._read(root, place, False)
            return Images(_pixels(train.data), _labels(train.targets), _pixels(test.data), _labels(test.targets))

    def _read(self, root: Path, place: Path, train: bool) -> Any:
        """A split from torchvision's files under ``root``; ``place`` is where the user keeps them."""
        from torchvision import datasets

        try:
            return getattr(datasets, self.kind)(root=str(root), train=train, download=False)
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


def _packed(place: Path) -> list[Path]:
    """The .gz files of a folder that do not lie there unpacked as well."""
    return sorted(file for file in place.glob("*.gz") if not file.with_suffix("").is_file())


def _unpack(place: Path, packed: list[Path], beside: Path) -> None:
    """Make ``beside`` the folder ``place`` with every file unpacked; the user's own folder stays as it is.

    Raises:
        DataError: a file is damaged.
    """
    beside.mkdir(parents=True)
    for file in place.iterdir():
        if file.suffix != ".gz" and file.is_file():
            (beside / file.name).symlink_to(file.absolute())
    for file in packed:
        try:
            with gzip.open(file) as source, (beside / file.stem).open("wb") as target:
                shutil.copyfileobj(source, target)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file} cannot be unpacked ({type(error).__name__}: {error}); fetch it again") from error


def _pixels(data: Any) -> np.ndarray:
    """Tensor ``[n, h, w]`` or array ``[n, h, w, c]`` -> contiguous uint8 ``[n, c, h, w]``."""
    images = np.asarray(data)
    return np.ascontiguousarray(images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2))


def _labels(targets: Any) -> np.ndarray:
    return np.asarray(targets, dtype=np.int64)


MNIST = VisionSet("MNIST", "MNIST/raw", Info((1, 28, 28), 10, 60000, 10000))
FASHION_MNIST = VisionSet("FashionMNIST", "FashionMNIST/raw", Info((1, 28, 28), 10, 60000, 10000))
KMNIST = VisionSet("KMNIST", "KMNIST/raw", Info((1, 28, 28), 10, 60000, 10000))
CIFAR10 = VisionSet("CIFAR10", "cifar-10-batches-py", Info((3, 32, 32), 10, 50000, 10000))
CIFAR100 = VisionSet("CIFAR100", "cifar-100-python", Info((3, 32, 32), 100, 50000, 10000))
