"""Image sets in Parquet files: a column of encoded images (PNG, JPEG, ...) and a column of whole-number labels.

``parquet:FOLDER`` names the set whose files ``train*.parquet`` and ``test*.parquet`` lie in FOLDER under the data
root, ``parquet`` alone the one in the data root itself. The columns are found by their types; where several fit,
say which: ``parquet:cifar100?image=img&label=fine_label``. An image is bytes, or a struct ``{bytes, path}``, the
layout in which image sets are commonly published. ``train=`` and ``test=`` name other files, ``*`` allowed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import numpy as np

from raycl.errors import DataError, UnknownName
from raycl.streams.datasets import Images

if TYPE_CHECKING:
    import pyarrow as pa

OPTIONS = ("image", "label", "train", "test")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


@dataclass(frozen=True)
class ParquetSet:
    """An image set in Parquet files under the data root: ``parquet:FOLDER?image=COLUMN&label=COLUMN``.

    Attributes:
        folder: relative to the data root.
        image, label: columns; empty: the only one that fits.
        train, test: file names in the folder, ``*`` for any characters, read in sorted order.
    """

    folder: str = ""
    image: str = ""
    label: str = ""
    train: str = "train*.parquet"
    test: str = "test*.parquet"

    @property
    def info(self) -> None:
        """Nothing is known before the files are read."""

    def configured(self, argument: str) -> ParquetSet:
        """The set that ``parquet:argument`` names.

        Raises:
            UnknownName: no folder, or an option that is not one of ``image``, ``label``, ``train``, ``test``.
        """
        folder, _, query = argument.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        readable = all(name in OPTIONS and value for name, value in options.items())
        if not folder or not readable or (query and not options):
            raise UnknownName(
                "a Parquet set is written parquet:FOLDER?image=COLUMN&label=COLUMN&train=FILES&test=FILES, "
                f"all but the folder optional (got 'parquet:{argument}')"
            )
        return replace(self, folder=folder, **options)

    def load(self, data_root: Path | None) -> Images:
        """Read and decode the images.

        Raises:
            DataError: no data root, no files, or a file that does not hold what it should; the message names it.
        """
        if data_root is None:
            raise DataError("a Parquet image set needs a data root (got none); pass --data-root or set RAYCL_DATA")
        folder = data_root / self.folder
        train_images, train_labels = self._read(folder, self.train)
        test_images, test_labels = self._read(folder, self.test)
        return Images(train_images, train_labels, test_images, test_labels)

    def _read(self, folder: Path, pattern: str) -> tuple[np.ndarray, np.ndarray]:
        files = sorted(folder.glob(pattern))
        if not files:
            raise DataError(f"no Parquet image files (looked for {folder / pattern}); put them there")
        parts = [self._read_file(file) for file in files]
        shapes = {part[0].shape[1:] for part in parts}
        if len(shapes) > 1:
            raise DataError(f"{folder / pattern}: all images must have one shape (got {sorted(shapes)}); resize them")
        return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])

    def _read_file(self, file: Path) -> tuple[np.ndarray, np.ndarray]:
        """uint8 ``[n, channels, height, width]`` and int64 ``[n]`` of one file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            schema = pq.read_schema(file)
            image = _column(file, schema, "image", self.image)
            label = _column(file, schema, "label", self.label)
            table = pq.read_table(file, columns=[image, label])
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} is not a complete Parquet file ({error}); fetch it again") from error
        encoded = table[image].combine_chunks()
        if pa.types.is_struct(encoded.type):
            encoded = encoded.field("bytes")
        if not len(table) or encoded.null_count or table[label].null_count:
            raise DataError(
                f"{file}: every row needs an image and a label (got {len(table)} rows, {encoded.null_count} without "
                f"image bytes, {table[label].null_count} without label)"
            )
        return _decode(file, encoded.to_pylist()), table[label].to_numpy().astype(np.int64)


def _column(file: Path, schema: pa.Schema, role: str, named: str) -> str:
    """The column of ``role``: the named one, or the only one whose type fits."""
    fits = _holds_image if role == "image" else _holds_label
    fitting = [field.name for field in schema if fits(field.type)]
    if named in fitting:
        return named
    if not named and len(fitting) == 1:
        return str(fitting[0])
    rule = "encoded images as bytes or a struct {bytes, path}" if role == "image" else "whole numbers"
    found = ", ".join(f"{field.name}: {field.type}" for field in schema)
    asked = f"column {named!r} does not" if named else f"{len(fitting)} columns"
    raise DataError(
        f"{file}: the {role} column holds {rule}; {asked} fit (got columns {found}); "
        f"name one with parquet:FOLDER?{role}=COLUMN"
    )


def _holds_image(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_image(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_label(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind))


def _decode(file: Path, encoded: Sequence[bytes]) -> np.ndarray:
    """Encoded images -> uint8 ``[n, channels, height, width]``; grey ones stay one channel, all others become RGB."""
    from PIL import Image

    decoded: list[np.ndarray] = []
    for row, value in enumerate(encoded):
        try:
            with Image.open(io.BytesIO(value)) as image:
                if image.mode in DEEP_MODES:
                    raise ValueError(f"more than 8 bits per channel, mode {image.mode}")
                grey = image.mode in ("1", "L")
                pixels = np.asarray(image.convert("L" if grey else "RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{file}: row {row} is not a readable image ({error}); replace it") from error
        pixels = pixels[None] if grey else pixels.transpose(2, 0, 1)
        if decoded and pixels.shape != decoded[0].shape:
            raise DataError(
                f"{file}: all images must have one shape (got {list(pixels.shape)} in row {row} and "
                f"{list(decoded[0].shape)} in row 0, channels first); resize them"
            )
        decoded.append(pixels)
    return np.stack(decoded)


PARQUET = ParquetSet()
