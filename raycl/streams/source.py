"""The local task source: one stream for one seed, over base arrays that every stream of the process shares."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raycl.errors import DataError
from raycl.streams.datasets import Images, checked
from raycl.streams.partition import Rows, partition, subsample
from raycl.streams.registry import DATASETS, STREAMS
from raycl.streams.stream import Stream, TaskClasses
from raycl.streams.task import Layout, Part, Recipe, Split

TrainOn = Literal["train", "train_and_validation"]

_loaded: dict[tuple[str, Path | None], Images] = {}
_loading = threading.Lock()


def load_images(name: str, data_root: Path | None) -> Images:
    """The data set ``name``, read once per process and data root.

    Raises:
        UnknownName: no such data set.
        DataError: it is missing or unreadable.
    """
    key = (name, data_root.resolve() if data_root else None)
    with _loading:
        if key not in _loaded:
            _loaded[key] = checked(DATASETS.get(name).load(data_root), f"data set {name!r}")
        return _loaded[key]


def make_stream(stream: Mapping[str, Any], seed: int) -> Stream:
    """The stream that a resolved ``stream`` block describes. Its ``seed``, where set, takes the place of ``seed``."""
    kind = STREAMS.get(str(stream.get("name")))
    config = kind.Config.model_validate_json(json.dumps(dict(stream)))
    return kind(config, seed if config.seed is None else config.seed)


class LocalSource:
    """Serves one stream in this process; meets :class:`raycl.streams.task.TaskSource`.

    Args:
        stream: the resolved ``stream`` block of a trial.
        seed: the run's seed.
        data_root: folder of the data sets.
        train_on: ``train_and_validation`` merges the validation rows into training and leaves validation empty.

    Raises:
        DataError: a data set is missing or does not fit the stream.
    """

    def __init__(
        self, stream: Mapping[str, Any], seed: int, data_root: Path | None = None, train_on: TrainOn = "train"
    ) -> None:
        self._stream = make_stream(stream, seed)
        self._train_on = train_on
        self._images = {name: load_images(name, data_root) for name in self._stream.datasets()}
        self._tasks = self._stream.tasks({name: images.num_classes for name, images in self._images.items()})
        self._rows: dict[TaskClasses, Rows] = {}

    @cached_property
    def layout(self) -> Layout:
        mean, std = self._mean_and_std()
        channels, height, width = self._image_shape
        pad = 2 * self._stream.config.pad
        return Layout(
            classes=tuple(task.classes for task in self._tasks),
            image_shape=(channels, height + pad, width + pad),
            split_hash=self._split_hash(),
            mean=mean,
            std=std,
        )

    def part(self, task: int, split: Split) -> Part:
        """One split of one task; its images are the shared base array, its recipe is built now.

        Raises:
            DataError: the task does not exist.
        """
        if not 0 <= task < len(self._tasks):
            raise DataError(f"tasks of this stream are 0..{len(self._tasks) - 1} (got {task})")
        chosen = self._tasks[task]
        images = self._images[chosen.dataset]
        testing = split == "test"
        rows = self._task_rows(task)[split]
        labels = (images.test_labels if testing else images.train_labels)[rows]
        local = np.empty(images.num_classes, dtype=np.int64)
        local[list(chosen.classes)] = np.arange(len(chosen.classes))
        return Part(
            images=images.test_images if testing else images.train_images,
            rows=rows,
            labels=local[labels],
            recipe=self._recipe(task),
            base=f"{chosen.dataset}/{'test' if testing else 'train'}",
        )

    def prefetch(self, task: int, split: Split) -> None:
        """Nothing to hide: the arrays are here."""

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        return next(iter(self._images.values())).image_shape

    def _recipe(self, task: int) -> Recipe:
        return self._stream.recipe(task, *self._image_shape[1:])

    def _task_rows(self, task: int) -> Rows:
        """The base rows of each split. Tasks of the same classes share one validation split, and its arrays."""
        config, seed, chosen = self._stream.config, self._stream.seed, self._tasks[task]
        images = self._images[chosen.dataset]
        if chosen not in self._rows:
            rows = partition(images, chosen.classes, config.validation_fraction, seed, chosen.dataset)
            if self._train_on == "train_and_validation":
                merged = np.concatenate([rows["train"], rows["validation"]])
                rows = {"train": merged, "validation": merged[:0], "test": rows["test"]}
            self._rows[chosen] = rows
        rows = self._rows[chosen]
        if config.train_per_task is not None:
            train = subsample(rows["train"], images.train_labels, config.train_per_task, seed, task)
            rows = {**rows, "train": train}
        return rows

    def _mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        sizes = np.array([len(images.train_labels) for images in self._images.values()])
        weights = sizes / sizes.sum()
        mean = weights @ np.stack([images.moments[0] for images in self._images.values()])
        square = weights @ np.stack([images.moments[1] for images in self._images.values()])
        std = np.sqrt(np.maximum(square - mean**2, 0))
        return tuple(mean.tolist()), tuple(std.tolist())

    def _split_hash(self) -> str:
        """Over every pixel, label and class order, the rows of every part, and every recipe."""
        digest = hashlib.sha256()
        for name, images in self._images.items():
            digest.update(f"{name} {images.fingerprint}\n".encode())
        known: dict[int, bytes] = {}
        for task, chosen in enumerate(self._tasks):
            rows = self._task_rows(task)
            recipe = self._recipe(task)
            digest.update(f"{task} {chosen.dataset} {chosen.classes} {recipe.pad} {recipe.angle}\n".encode())
            if recipe.permutation is not None:
                digest.update(recipe.permutation.tobytes())
            for split in ("train", "validation", "test"):
                digest.update(self._digest_of(rows[split], known))
        return digest.hexdigest()[:16]

    def _digest_of(self, rows: np.ndarray, known: dict[int, bytes]) -> bytes:
        """Digest of rows; arrays that tasks share are read once."""
        if any(rows is kept for shared in self._rows.values() for kept in shared.values()):
            return known.setdefault(id(rows), b"") or known.setdefault(id(rows), hashlib.sha256(rows).digest())
        return hashlib.sha256(rows).digest()


@dataclass(frozen=True)
class Outline:
    """A stream's extent, known before its data are read.

    Attributes:
        sizes: number of classes of each task.
        image_shape: channels, height, width of a task's images, padding included.
        base_bytes: of the shared base images.
    """

    sizes: tuple[int, ...]
    image_shape: tuple[int, int, int]
    base_bytes: int

    @property
    def num_tasks(self) -> int:
        return len(self.sizes)


def stream_outline(stream: Mapping[str, Any]) -> Outline | None:
    """The extent of a resolved ``stream`` block, without its data; None where a data set says nothing of itself.

    Raises:
        UnknownName: no such stream or data set.
        DataError: the data set does not fit the stream.
    """
    made = make_stream(stream, 0)
    infos = {name: DATASETS.get(name).info for name in made.datasets()}
    known = {name: info for name, info in infos.items() if info is not None}
    if len(known) < len(infos):
        return None
    tasks = made.tasks({name: info.num_classes for name, info in known.items()})
    channels, height, width = next(iter(known.values())).image_shape
    pad = 2 * made.config.pad
    rows = sum((info.train_size + info.test_size) * int(np.prod(info.image_shape)) for info in known.values())
    return Outline(tuple(len(task.classes) for task in tasks), (channels, height + pad, width + pad), rows)
