"""Features of a frozen backbone in place of images: computed once for a whole data set, and cached.

A cache file is named by what decides its content: the weights, every pixel and label of the data set, the size the
backbone sees and the type of the features. So it is never out of date, many sweeps share it, and it may be deleted at
any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import Tensor, nn

from raycl.addresses import expanded
from raycl.errors import DataError
from raycl.models.registry import MODELS
from raycl.models.weights import WEIGHTS, backbone, load_weights, weights_hash
from raycl.spec.options import EncodeConfig
from raycl.spec.setting import Names
from raycl.streams.datasets import Images

FEATURES_FORMAT = 1
FOLDER = "features"
"""Of the cache, below the data root."""
ENCODED_AT_ONCE = 250
"""Images that go through the backbone at once."""

_encoded: dict[str, Features] = {}
_encoding = threading.RLock()
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features(Images):
    """A data set whose images are features: float ``[n, features, 1, 1]``.

    Attributes:
        key: names them by where they come from, since the last bit of a number may depend on the machine.
    """

    key: str

    @cached_property
    def fingerprint(self) -> str:
        return self.key

    @cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every feature over the training rows: mean ``[features]`` and mean square ``[features]``."""
        values = self.train_images.reshape(len(self.train_images), -1).astype(np.float64)
        return values.mean(axis=0), (values**2).mean(axis=0)


def known_features(config: EncodeConfig) -> int | None:
    """The number of features, where it is known without reading the weights."""
    return WEIGHTS.get(config.weights).features if config.weights in WEIGHTS else None


class FeatureEncoder:
    """A frozen backbone with its preprocessing, for the data sets of one stream.

    Args:
        config: the stream's ``encode`` block.
        data_root: where the weights lie, and the cache; without one nothing is cached on disk.
        models: where the model of the weights is registered.

    Raises:
        DataError: the weights are missing, damaged, or not those that the block names by their hash.
    """

    def __init__(self, config: EncodeConfig, data_root: Path | None, models: Names = MODELS) -> None:
        self._config = config
        self._models = models
        data_root = data_root and expanded(data_root)
        self._folder = None if data_root is None else data_root / FOLDER
        self._weights = load_weights(config.weights, data_root, config.weights_hash)
        decisive = {
            "format": FEATURES_FORMAT,
            "weights": config.weights_hash or weights_hash(config.weights, data_root),
            "size": self._size,
            "dtype": config.dtype,
        }
        self.origin = self._weights.origin
        self.key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def _size(self) -> tuple[int, int]:
        height, width = self._weights.image_shape[1:]
        return (self._config.resize,) * 2 if self._config.resize else (height, width)

    def encoded(self, images: Images) -> Features:
        """The features of a data set: from this process, else from the cache, else computed and cached.

        Raises:
            DataError: the images do not fit the backbone.
        """
        key = f"{images.fingerprint}-{self.key}"
        with _encoding:
            if key not in _encoded:
                file = None if self._folder is None else self._folder / f"{key}.safetensors"
                arrays = (file and _read(file, images)) or self._computed(images)
                if file is not None and not file.is_file():
                    _write(file, arrays)
                train, test = arrays["train"], arrays["test"]
                _encoded[key] = Features(train, images.train_labels, test, images.test_labels, key)
            return _encoded[key]

    def _computed(self, images: Images) -> dict[str, np.ndarray]:
        network = self._network(images.image_shape[0])
        count = len(images.train_labels) + len(images.test_labels)
        log.info("computing the features of %d images, once, with %s", count, self._config.weights)
        return {
            "train": self._features(network, images.train_images),
            "test": self._features(network, images.test_images),
        }

    def _network(self, channels: int) -> nn.Module:
        """The backbone in evaluation mode.

        Raises:
            DataError: the images have other channels, or the weights do not fit the model they name.
        """
        weights, name = self._weights, self._config.weights
        if channels not in (1, weights.image_shape[0]):
            raise DataError(
                f"weights {name!r} are for images of {weights.image_shape[0]} channels (got {channels}); "
                "take another data set or other weights"
            )
        return backbone(weights, name, self._size, self._models).eval()

    def _features(self, network: nn.Module, images: np.ndarray) -> np.ndarray:
        """uint8 ``[n, channels, height, width]`` -> float ``[n, features, 1, 1]``."""
        slabs = []
        with torch.no_grad():
            for start in range(0, len(images), ENCODED_AT_ONCE):
                features = network(self._prepared(torch.tensor(images[start : start + ENCODED_AT_ONCE])))
                slabs.append(features.numpy().astype(self._config.dtype))
        encoded: np.ndarray = np.concatenate(slabs)[:, :, None, None]
        if not np.isfinite(encoded).all():
            raise DataError(
                f"weights {self._config.weights!r} give features that are not finite as {self._config.dtype}"
            )
        return encoded

    def _prepared(self, images: Tensor) -> Tensor:
        """uint8 ``[n, channels, *]`` -> float32 as the backbone was trained on: its size, its normalisation."""
        x = images.float()
        if tuple(x.shape[2:]) != self._size:
            x = nn.functional.interpolate(x, self._size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self._weights.mean, self._weights.std))
        return x.mul(1 / (255 * std)).sub(mean / std)  # grey images become as many channels as the backbone has


def _read(file: Path, images: Images) -> dict[str, np.ndarray] | None:
    """The arrays of a cache file; None where it is absent, or damaged: then it is removed."""
    if not file.is_file():
        return None
    try:
        with safetensors.safe_open(str(file), framework="np") as opened:
            digest = (opened.metadata() or {})["digest"]
        arrays: dict[str, np.ndarray] = safetensors.numpy.load_file(file)
        rows = len(arrays["train"]), len(arrays["test"])
        if rows == (len(images.train_labels), len(images.test_labels)) and digest == _digest(arrays):
            return arrays
        reason = "its numbers are not those that were written"
    except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
    log.warning("%s is damaged (%s); computing these features again", file, reason)
    with suppress(OSError):
        file.unlink(missing_ok=True)
    return None


def _write(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write beside the final place and move, so that processes that compute the same never see half a file."""
    aside = file.with_name(f".{file.name}-{uuid.uuid4().hex[:8]}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        safetensors.numpy.save_file(dict(arrays), aside, metadata={"digest": _digest(arrays)})
        aside.replace(file)
    except (OSError, safetensors.SafetensorError) as error:
        log.warning("features cannot be cached in %s (%s); every process computes them anew", file.parent, error)
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
