"""Small image sets in Parquet files."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def png(pixels: np.ndarray) -> bytes:
    return encoded(Image.fromarray(pixels))


def pixels_of(rows: int, shape: tuple[int, ...] = (6, 7, 3), seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (rows, *shape), dtype=np.uint8)


def write_set(folder: Path, columns: Mapping[str, Any] | None = None, **files: Mapping[str, Any]) -> None:
    """train.parquet and test.parquet of twelve images of three classes; ``files`` replace columns of one of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, split in enumerate(("train", "test")):
        images = [png(image) for image in pixels_of(12, seed=seed)]
        table = {
            "image": [{"bytes": value, "path": ""} for value in images],
            "label": [row % 3 for row in range(12)],
            **(columns or {}),
        }
        pq.write_table(pa.table({**table, **files.get(split, {})}), folder / f"{split}.parquet")


def write_mnist(root: Path) -> Path:
    """A small set in MNIST's own format, sixty images a split; returns its folder."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for seed, split in enumerate(("train", "t10k")):
        write_idx(raw / f"{split}-images-idx3-ubyte", pixels_of(60, (28, 28), seed))
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.arange(60) % 10)
    return raw


def write_idx(path: Path, values: np.ndarray) -> None:
    """A file of MNIST's format."""
    head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(head + values.astype(np.uint8).tobytes())
