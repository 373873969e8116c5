"""Files of MNIST's format, IDX: two zero bytes, 8 for unsigned bytes, the number of dimensions, their sizes as
big-endian integers of four bytes, and the bytes. torchvision reads them too, but its import takes two seconds."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from raycl.errors import DataError
from raycl.streams.datasets import Images

UNSIGNED_BYTES = 8


def read_images(place: Path) -> Images:
    """The four files of a folder, each unpacked or as it is published, ``.gz``.

    Raises:
        OSError: a file is missing.
        ValueError: a file is of another format or length.
        DataError: a file cannot be unpacked.
    """
    return Images(
        _read(place / "train-images-idx3-ubyte", 3)[:, None],
        _read(place / "train-labels-idx1-ubyte", 1).astype(np.int64),
        _read(place / "t10k-images-idx3-ubyte", 3)[:, None],
        _read(place / "t10k-labels-idx1-ubyte", 1).astype(np.int64),
    )


def _read(file: Path, dimensions: int) -> np.ndarray:
    """uint8 of so many dimensions, read-only."""
    data = _bytes(file)
    start = 4 * (dimensions + 1)
    if data[:4] != bytes([0, 0, UNSIGNED_BYTES, dimensions]) or len(data) < start:
        raise ValueError(f"{file.name} is no IDX file of {dimensions} dimensions of unsigned bytes")
    sizes = np.frombuffer(data, ">i4", dimensions, offset=4).tolist()
    if len(data) - start != math.prod(sizes):
        raise ValueError(f"{file.name} holds {len(data) - start} bytes, not the {math.prod(sizes)} that its head says")
    return np.frombuffer(data, np.uint8, offset=start).reshape(sizes)


def _bytes(file: Path) -> bytes:
    packed = file.with_name(f"{file.name}.gz")
    if file.is_file() or not packed.is_file():
        return file.read_bytes()
    try:
        return gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{packed} cannot be unpacked ({type(error).__name__}: {error}); fetch it again") from error
