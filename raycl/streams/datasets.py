"""What a data set is, the one that needs no download, and the cache that loads each set once per process."""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import distribution
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from raycl.errors import DataError
from raycl.streams.randomness import random_state

TELLING = 10
"""Different images that a test set must have before copies of them are more than a coincidence."""
COPIES = 0.01
"""The share of test images among the training images from which on it is told."""

COUNTED_AT_ONCE = 1024
"""Images whose pixels are whole numbers of eight bytes at the same time."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Info:
    """What is known of a data set without reading it.

    Attributes:
        image_shape: channels, height, width.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    train_size: int
    test_size: int


@dataclass(frozen=True)
class Images:
    """A data set in memory. The arrays are read-only, for many tasks and trials share them.

    Attributes:
        train_images, test_images: uint8 ``[n, channels, height, width]``.
        train_labels, test_labels: int64 ``[n]``, class ids 0..num_classes - 1.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    def __post_init__(self) -> None:
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            array.setflags(write=False)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @cached_property
    def num_classes(self) -> int:
        return int(self.train_labels.max()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """Names every pixel and label."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @cached_property
    def names(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """What names the pixels of every image of its own, of the training and of the test images."""
        return _names(self.train_images), _names(self.test_images)

    def fitted(self, shape: tuple[int, int, int]) -> Images:
        """The same set with images of another shape: centred on black, grey repeated to three channels."""
        if shape == self.image_shape:
            return self
        train, test = _fitted(self.train_images, shape), _fitted(self.test_images, shape)
        return Images(train, self.train_labels, test, self.test_labels)

    @cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Per channel, of the training images in [0, 1]: mean ``[channels]`` and mean square ``[channels]``."""
        values = np.arange(256) / 255
        parts = np.array_split(self.train_images, math.ceil(len(self.train_images) / COUNTED_AT_ONCE))
        counts = np.sum([_counts(part) for part in parts], axis=0)
        share = counts / counts.sum(axis=1, keepdims=True)
        return share @ values, share @ values**2


def _fitted(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 ``[n, 1 or 3, height, width]`` -> ``[n, *shape]``; ``shape`` is at least as large in every dimension."""
    height, width = images.shape[2:]
    top, left = (shape[1] - height) // 2, (shape[2] - width) // 2
    fitted = np.zeros((len(images), *shape), dtype=np.uint8)
    fitted[:, :, top : top + height, left : left + width] = images
    return fitted


def _counts(images: np.ndarray) -> np.ndarray:
    """How often each value occurs, int64 ``[channels, 256]``."""
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in images.swapaxes(0, 1)])


class DataSet(Protocol):
    """A set of labelled images, cut into train and test."""

    @property
    def info(self) -> Info | None:
        """What is known without reading it; None where nothing is."""
        ...

    def load(self, data_root: Path | None) -> Images:
        """Read the images.

        Raises:
            DataError: they are missing or unreadable; the message names the path and the remedy.
        """
        ...


@runtime_checkable
class ConfigurableDataSet(Protocol):
    """A registry entry that stands for many data sets, chosen by what follows the colon of a name."""

    def configured(self, argument: str) -> DataSet: ...


def fit_for_streams(images: Images, origin: object) -> Images:
    """Return ``images`` if they are fit for a stream.

    Args:
        origin: the file or folder they came from, for messages.

    Raises:
        DataError: arrays of another type or shape, labels that are not 0..C-1, or test images that are all trained on.
    """
    for split, pixels, labels in (
        ("train", images.train_images, images.train_labels),
        ("test", images.test_images, images.test_labels),
    ):
        shape = pixels.shape
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or shape[1] not in (1, 3) or not len(labels):
            raise DataError(
                f"{origin}: {split} images must be uint8 [n, 1 or 3, height, width] with n > 0 "
                f"(got {pixels.dtype} {list(shape)}); convert them"
            )
        if labels.shape != shape[:1] or labels.dtype != np.int64:
            raise DataError(
                f"{origin}: {split} labels must be one int64 per image "
                f"(got {labels.dtype} {list(labels.shape)} for {len(pixels)} images)"
            )
    if images.train_images.shape[1:] != images.test_images.shape[1:]:
        raise DataError(
            f"{origin}: train and test images must have one shape "
            f"(got {list(images.train_images.shape[1:])} and {list(images.test_images.shape[1:])}); resize them"
        )
    _check_labels(images, origin)
    _check_copies(images, origin)
    return images


def _check_copies(images: Images, origin: object) -> None:
    """Test images must not be training images under another name; a few stand in both parts of many published sets.

    Raises:
        DataError: all of them are.
    """
    copies = copied(images, images)
    if copies == len(images.test_labels) and len(set(images.names[1])) >= TELLING:
        raise DataError(
            f"{origin}: every one of the {copies} test images is a training image too; give the test set images of "
            "its own"
        )
    if copies > COPIES * len(images.test_labels):
        told = f"{copies} of {len(images.test_labels)} test images are training images too"
        log.warning("%s: %s", origin, told)


def copied(tested: Images, trained: Images) -> int:
    """How many test images of the one set are training images of the other, pixel by pixel."""
    known = frozenset(trained.names[0])
    return sum(name in known for name in tested.names[1])


def _names(images: np.ndarray) -> tuple[bytes, ...]:
    """A name of every image's pixels."""
    digests = (hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16) for image in images)
    return tuple(digest.digest() for digest in digests)


def _check_labels(images: Images, origin: object) -> None:
    present = np.unique(images.train_labels)
    if not np.array_equal(present, np.arange(len(present))):
        raise DataError(
            f"{origin}: train labels must be 0..C-1 without gaps (got {len(present)} classes from {present[0]} to "
            f"{present[-1]}); renumber them"
        )
    unknown = np.setdiff1d(images.test_labels, present)
    if len(unknown):
        raise DataError(f"{origin}: test labels must occur among the train labels (got {unknown[:5].tolist()} besides)")


class Digits:
    """8 x 8 handwritten digits from scikit-learn's wheel (UCI optdigits), pixels 0..16 scaled to 0..255.

    The source has no test set of its own: a fixed sixth of every class is set aside.
    """

    info = Info((1, 8, 8), 10, 1501, 296)
    file = "sklearn/datasets/data/digits.csv.gz"

    def load(self, data_root: Path | None) -> Images:
        """Read the digits; ``data_root`` is not needed.

        They are read from their file: to import scikit-learn takes longer than to learn them.
        """
        values = np.loadtxt(str(distribution("scikit-learn").locate_file(self.file)), delimiter=",")
        images = np.round(values[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        labels = values[:, -1].astype(np.int64)
        test = np.zeros(len(labels), dtype=bool)
        for label in range(10):
            rows = random_state(0, "digits_test", label).permutation(np.flatnonzero(labels == label))
            test[rows[: len(rows) // 6]] = True
        return Images(images[~test], labels[~test], images[test], labels[test])


DIGITS = Digits()
