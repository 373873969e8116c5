"""Mean and deviation of pixels or features, by which ``normalize`` standardises what a network sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from raycl.streams.datasets import Images
from raycl.streams.task import Part

Moments = tuple[tuple[float, ...], tuple[float, ...]]
"""Per channel: mean and standard deviation, of pixels in [0, 1] or of features."""

SUMMED_AT_ONCE = 1024
"""Images whose pixels are floats at the same time."""


def of_data_sets(images: Sequence[Images], shown: float) -> Moments:
    """Over all training images of all data sets: validation rows, later tasks and classes of no task are among them.

    Args:
        shown: the share of a task's pixels that comes from the image; the others are the black ones of the padding.
    """
    sizes = np.array([len(one.train_labels) for one in images])
    weights = sizes / sizes.sum()
    mean = shown * (weights @ np.stack([one.moments[0] for one in images]))
    square = shown * (weights @ np.stack([one.moments[1] for one in images]))
    return _moments(mean, square)


def of_part(part: Part) -> Moments:
    """Over the rows of one part, as its recipe shows them."""
    import torch  # late: data whose moments are those of whole sets are served without it

    unit = 255 if part.images.dtype == np.uint8 else 1
    channels = part.images.shape[1]
    mean, square = np.zeros(channels), np.zeros(channels)
    for start in range(0, len(part), SUMMED_AT_ONCE):
        rows = part.rows[start : start + SUMMED_AT_ONCE]
        shown = part.recipe.apply(torch.from_numpy(part.images[rows])).double() / unit
        mean += shown.sum(dim=(0, 2, 3)).numpy()
        square += shown.square().sum(dim=(0, 2, 3)).numpy()
        pixels = math.prod(shown.shape[2:])
    return _moments(mean / (len(part) * pixels), square / (len(part) * pixels))


def _moments(mean: np.ndarray, square: np.ndarray) -> Moments:
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return tuple(mean.tolist()), tuple(std.tolist())
