"""Image sets in Parquet files: a column of encoded images (PNG, JPEG, ...) and a column of whole-number labels.

``parquet:FOLDER`` names the set whose files ``train*.parquet`` and ``test*.parquet`` lie in FOLDER under the data
root, ``parquet`` alone the one in the data root itself. The columns are found by their types; where several fit,
say which: ``parquet:cifar100?image=img&label=fine_label``. An image is bytes, or a struct ``{bytes, path}``, the
layout in which image sets are commonly published. ``train=`` and ``test=`` name other files, ``*`` allowed; a folder of
such a name, as Spark writes it, stands for the Parquet files in it. ``background=white`` or ``black`` lies below
transparent pixels.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import numpy as np

from raycl.errors import DataError, UnknownName
from raycl.streams.datasets import Images
from raycl.streams.decoding import BACKGROUNDS, ImageStack

if TYPE_CHECKING:
    import pyarrow as pa

OPTIONS = ("image", "label", "train", "test", "background")
READ_AT_ONCE = 64
"""Read and decoded at once. A whole column may hold more bytes than one array of Arrow's can: 2 GiB."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParquetSet:
    """An image set in Parquet files under the data root: ``parquet:FOLDER?image=COLUMN&label=COLUMN``.

    Attributes:
        folder: relative to the data root.
        image, label: columns; empty: the only one that fits.
        train, test: file names in the folder, ``*`` for any characters, read in sorted order.
        background: ``white`` or ``black`` below transparent pixels; empty: their colours are taken as if opaque.
    """

    folder: str = ""
    image: str = ""
    label: str = ""
    train: str = "train*.parquet"
    test: str = "test*.parquet"
    background: str = ""

    @property
    def info(self) -> None:
        """Nothing is known before the files are read."""

    def configured(self, argument: str) -> ParquetSet:
        """The set that ``parquet:argument`` names.

        Raises:
            UnknownName: no folder, an option that is not one of :data:`OPTIONS`, or one given twice, file names that
                lead out of the folder, or an unknown background.
        """
        folder, _, query = argument.partition("?")
        pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)
        options = dict(pairs)
        readable = all(name in OPTIONS and value for name, value in options.items())
        if not folder or not readable or (query and not options):
            raise UnknownName(
                "a Parquet set is written parquet:FOLDER?image=COLUMN&label=COLUMN&train=FILES&test=FILES, "
                f"all but the folder optional, and background=white or black (got 'parquet:{argument}')"
            )
        twice = sorted({name for name, _ in pairs if [given for given, _ in pairs].count(name) > 1})
        if twice:
            raise UnknownName(f"'parquet:{argument}': an option is given once (got {twice[0]} twice); remove one")
        for name in ("train", "test"):
            _check_pattern(argument, name, options.get(name))
        if options.get("background", "white") not in BACKGROUNDS:
            raise UnknownName(
                f"'parquet:{argument}': background is one of {', '.join(BACKGROUNDS)} (got {options['background']!r})"
            )
        return replace(self, folder=folder, **options)

    def load(self, data_root: Path | None) -> Images:
        """Read and decode the images, and say what had to be converted.

        Raises:
            DataError: no data root, no files, one file for training and test, or a file that does not hold what it
                should; the message names it.
        """
        if data_root is None:
            raise DataError("a Parquet image set needs a data root (got none); pass --data-root or set RAYCL_DATA")
        folder = data_root / self.folder
        files = {pattern: _files(folder, pattern) for pattern in (self.train, self.test)}
        _check_apart(folder, self.train, self.test, files)
        told: Counter[str] = Counter()
        train, train_labels = self._read(folder / self.train, files[self.train], told)
        test, test_labels = self._read(folder / self.test, files[self.test], told)
        colour = train.colour or test.colour
        images = Images(train.images(colour), train_labels, test.images(colour), test_labels)
        if told:
            rows = len(train_labels) + len(test_labels)
            converted = "; ".join(f"{count} {what}" for what, count in sorted(told.items()))
            log.warning("%s: of %d images %s", folder, rows, converted)
        return images

    def _read(self, asked: Path, files: Sequence[Path], told: Counter[str]) -> tuple[ImageStack, np.ndarray]:
        """The images of one split, and its labels int64 ``[n]``."""
        rows = {file: _rows(file) for file in files}
        stack = ImageStack(sum(rows.values()), self.background, told)
        labels: list[np.ndarray] = []
        for file in (file for file in files if rows[file]):  # a shard without rows may be without types too
            for start, encoded, values in self._batches(file):
                stack.add(file, start, encoded)
                labels.append(values)
        if not labels:
            raise DataError(f"{asked}: the files hold no images (got {len(files)} without rows); fetch them again")
        return stack, np.concatenate(labels)

    def _batches(self, file: Path) -> Iterator[tuple[int, list[bytes], np.ndarray]]:
        """First row, encoded images and labels int64 of every few rows of a file."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        start = 0
        try:
            opened = pq.ParquetFile(file)
            image = _column(file, opened.schema_arrow, "image", self.image)
            label = _column(file, opened.schema_arrow, "label", self.label)
            for batch in opened.iter_batches(READ_AT_ONCE, columns=[image, label]):
                encoded = batch.column(image)
                if pa.types.is_struct(encoded.type):
                    encoded = pc.struct_field(encoded, "bytes")
                labels = batch.column(label)
                if encoded.null_count or labels.null_count:
                    raise DataError(
                        f"{file}: every row needs an image and a label (got {encoded.null_count} without image bytes, "
                        f"{labels.null_count} without label in rows {start} to {start + len(batch) - 1})"
                    )
                yield start, encoded.to_pylist(), _int64(file, labels)
                start += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} is not a complete Parquet file ({error}); fetch it again") from error


def _rows(file: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a complete Parquet file ({error}); fetch it again") from error


def _check_pattern(argument: str, option: str, pattern: str | None) -> None:
    """File names below the folder.

    Raises:
        UnknownName: it is absolute, leads elsewhere, or has ``**`` within a name.
    """
    if pattern is None:
        return
    parts = PurePosixPath(pattern).parts
    within = bool(parts) and not PurePosixPath(pattern).is_absolute() and ".." not in parts
    if not within or any("**" in part and part != "**" for part in parts) or parts[-1] == "**":
        raise UnknownName(
            f"'parquet:{argument}': {option} names files in the folder, * for any characters, such as "
            f"{option}*.parquet (got {pattern!r})"
        )


def _files(folder: Path, pattern: str) -> list[Path]:
    """The files that a pattern names, in order; those of a folder where it names one.

    Raises:
        DataError: there are none.
    """
    found: list[Path] = []
    for path in sorted(folder.glob(pattern)):
        inner = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        found += [file for file in inner if not path.is_dir() or file.name[0] not in "._"]
    if not found:
        raise DataError(f"no Parquet image files (looked for {folder / pattern}); put them there")
    return found


def _check_apart(folder: Path, train: str, test: str, files: dict[str, list[Path]]) -> None:
    """No file is read for training and for test, whatever it is called.

    Raises:
        DataError: one is.
    """

    def identity(file: Path) -> tuple[int, int]:
        found = file.stat()  # links lead to the same numbers
        return found.st_dev, found.st_ino

    trained = {identity(file) for file in files[train]}
    both = [file.name for file in files[test] if identity(file) in trained]
    if both:
        raise DataError(
            f"{folder}: a test file must not be trained on (got {', '.join(both[:3])} for train={train} and for "
            f"test={test}); name other files with parquet:FOLDER?train=FILES&test=FILES"
        )


def _int64(file: Path, labels: pa.Array) -> np.ndarray:
    import pyarrow as pa

    try:
        values: np.ndarray = labels.cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise DataError(f"{file}: labels must be 0..C-1 ({error}); renumber them") from error
    return values


def _column(file: Path, schema: pa.Schema, role: str, named: str) -> str:
    """The column of ``role``: the named one, or the only one whose type fits."""
    fits = _holds_image if role == "image" else _holds_label
    fitting = [field.name for field in schema if fits(field.type)]
    if named in fitting:
        return named
    if not named and len(fitting) == 1:
        return str(fitting[0])
    rule = "encoded images as bytes or a struct {bytes, path}" if role == "image" else "whole numbers 0..C-1"
    found = ", ".join(f"{field.name}: {field.type}" for field in schema)
    asked = f"column {named!r} does not" if named else f"{len(fitting)} columns"
    remedy = f"name one with parquet:FOLDER?{role}=COLUMN" if fitting else f"write the {role}s so"
    raise DataError(f"{file}: the {role} column holds {rule}; {asked} fit (got columns {found}); {remedy}")


def _holds_image(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_image(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_label(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind))


PARQUET = ParquetSet()
