"""Which rows of a data set belong to training, validation and test: stratified by class, drawn from the seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raycl.errors import DataError
from raycl.streams.datasets import Images
from raycl.streams.randomness import random_state
from raycl.streams.task import SplitName

SplitRows = dict[SplitName, np.ndarray]
"""Base rows int64 ``[n]`` of each split. Training and validation index the train arrays, test the test arrays."""


def partition(images: Images, classes: Sequence[int], fraction: float, seed: int, origin: str) -> SplitRows:
    """Cut the rows of some classes into the three splits.

    A class is cut by its id and the seed alone, so every task that holds it cuts it alike: no training row of one
    task is a validation row of another.

    Args:
        fraction: share of every class's training rows that validate, at least one row.

    Raises:
        DataError: a class is too small to be cut.
    """
    train, validation = [], []
    for label in classes:
        rows = random_state(seed, "split", label).permutation(np.flatnonzero(images.train_labels == label))
        held_out = max(1, round(fraction * len(rows)))
        if held_out >= len(rows):
            raise DataError(
                f"data set {origin!r}: class {label} has {len(rows)} training images, which leaves none to train on "
                f"beside a validation_fraction of {fraction}; lower the fraction or add images"
            )
        validation.append(rows[:held_out])
        train.append(rows[held_out:])
    # Files are often sorted by class; a method that takes rows as they come must not see them so.
    mixed = random_state(seed, "row_order").permutation(np.concatenate(train))
    test = np.flatnonzero(np.isin(images.test_labels, classes))
    order = random_state(seed, "score_order")
    return {
        "train": mixed,
        "validation": interleaved(np.concatenate(validation), images.train_labels, order),
        "test": interleaved(test, images.test_labels, order),
    }


def subsample(rows: np.ndarray, labels: np.ndarray, size: int, seed: int, task: int) -> np.ndarray:
    """At most ``size`` of ``rows``, each class within one row of its share; another draw for every task.

    Args:
        labels: int64 ``[base rows]``.
    """
    if size >= len(rows):
        return rows
    chosen = interleaved(rows, labels, random_state(seed, "subsample", task))[:size]
    return random_state(seed, "subsample_order", task).permutation(chosen)


def interleaved(rows: np.ndarray, labels: np.ndarray, generator: np.random.RandomState) -> np.ndarray:
    """``rows`` in a random order of which every prefix holds each class within one row of its share."""
    shuffled = generator.permutation(rows)
    own = labels[shuffled]
    depth = np.empty(len(rows))
    for label in np.unique(own):
        members = np.flatnonzero(own == label)
        depth[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(depth, kind="stable")]
