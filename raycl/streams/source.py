"""The local task source: one stream for one seed, over base arrays that every stream of the process shares."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raycl.addresses import expanded
from raycl.errors import DataError
from raycl.spec.options import StreamConfig
from raycl.spec.seeds import RunSeeds
from raycl.spec.setting import Names, Registries
from raycl.streams import moments
from raycl.streams.contents import Content, seen
from raycl.streams.datasets import DataSet, Images, fit_for_streams
from raycl.streams.partition import SplitRows, partition, subsample
from raycl.streams.refusals import check_copies, check_distinct
from raycl.streams.registry import DATASETS
from raycl.streams.stream import Stream, TaskClasses
from raycl.streams.task import Layout, Part, Recipe, SplitName

TrainOn = Literal["train", "train_and_validation"]

Shape = tuple[int, int, int]

_loaded: dict[tuple[str, Path | None, Shape | None], tuple[DataSet, Images]] = {}
"""What was read last under each name, and the registered entry that it comes from: two catalogues may differ in it."""
_loading = threading.RLock()


def load_images(name: str, data_root: Path | None, shape: Shape | None = None, datasets: Names = DATASETS) -> Images:
    """The data set ``name``, read once per process and data root.

    Args:
        shape: channels, height, width to fit the images into; default: their own.
        datasets: where the name is registered.

    Raises:
        UnknownName: no such data set.
        DataError: it is missing or unreadable.
    """
    data_root = data_root and expanded(data_root)
    key = (name, data_root.resolve() if data_root else None, shape)
    with _loading:
        entry = datasets.get(name.partition(":")[0])
        if key not in _loaded or _loaded[key][0] is not entry:
            if shape is None:
                images = fit_for_streams(datasets.get(name).load(data_root), f"data set {name!r}")
            else:
                images = load_images(name, data_root, datasets=datasets).fitted(shape)
            _loaded[key] = entry, images
        return _loaded[key][1]


def common_shape(shapes: Iterable[Shape]) -> Shape:
    """The smallest shape into which all images fit."""
    channels, height, width = (max(sizes) for sizes in zip(*shapes, strict=True))
    return channels, height, width


def padded(shape: Shape, pad: int) -> Shape:
    """The shape of images with ``pad`` more pixels on each side."""
    channels, height, width = shape
    return channels, height + 2 * pad, width + 2 * pad


def make_stream(catalog: Registries, config: StreamConfig, seed: int) -> Stream:
    """The stream that a checked ``stream`` block describes.

    Args:
        seed: of the order of classes, permutations and angles; the block's own, where set, takes its place.
    """
    made: Stream = catalog.streams.get(config.name)(config, seed if config.seed is None else config.seed)
    return made


class LocalSource:
    """Serves one stream in this process; meets :class:`raycl.streams.task.TaskSource`.

    Args:
        catalog: where the stream, its data sets and the model of a backbone are registered.
        config: the checked ``stream`` block of a trial.
        seed: the run's seed, or the seeds of its sources of randomness.
        data_root: folder of the data sets.
        train_on: ``train_and_validation`` merges the validation rows into training and leaves validation empty.

    Raises:
        DataError: a data set is missing or does not fit the stream, or two tasks are equal.
    """

    def __init__(
        self,
        catalog: Registries,
        config: StreamConfig,
        seed: int | RunSeeds,
        data_root: Path | None = None,
        train_on: TrainOn = "train",
    ) -> None:
        seeds = RunSeeds.of(seed)
        self._stream = make_stream(catalog, config, seeds.class_order)
        self._split_seed = seeds.split if config.seed is None else config.seed
        self._train_on = train_on
        names, datasets = self._stream.datasets(), catalog.datasets
        self._raw = {name: load_images(name, data_root, datasets=datasets) for name in names}
        self._base_shape = common_shape(images.image_shape for images in self._raw.values())
        self._images = {name: load_images(name, data_root, self._base_shape, datasets) for name in names}
        self._base = "x".join(map(str, self._base_shape))
        self._origin: Mapping[str, Any] = {}
        if config.encode is not None:
            from raycl.streams.encode import FeatureEncoder  # late: it imports torch

            encoder = FeatureEncoder(config.encode, data_root, catalog.models)
            self._origin = encoder.origin
            self._images = {name: encoder.encoded(images) for name, images in self._images.items()}
            self._base_shape = self._images[names[0]].image_shape
            self._base += f"-{encoder.key}"
        self._tasks = self._stream.tasks({name: images.num_classes for name, images in self._images.items()})
        self._rows: dict[TaskClasses, SplitRows] = {}
        named = {name: images.fingerprint if len(names) > 1 else name for name, images in self._raw.items()}
        check_copies(self._raw)
        check_distinct(self._stream, self._tasks, named, self._base_shape)

    @cached_property
    def layout(self) -> Layout:
        mean, std = self._mean_and_std()
        contents = held(self._tasks, self._raw)
        return Layout(
            classes=tuple(task.classes for task in self._tasks),
            image_shape=padded(self._base_shape, self._stream.config.pad),
            split_hash=self._split_hash(),
            mean=mean,
            std=std,
            dtype=next(iter(self._images.values())).train_images.dtype.name,
            data_digest=self._data_digest(),
            contents=contents,
            seen=seen(self._origin, contents),
        )

    def part(self, task: int, split: SplitName) -> Part:
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
            base=f"{chosen.dataset}/{self._base}/{'test' if testing else 'train'}",
        )

    def prefetch(self, task: int, split: SplitName) -> None:
        """Nothing to hide: the arrays are here."""

    def _recipe(self, task: int) -> Recipe:
        return self._stream.recipe(task, *self._base_shape[1:])

    def _class_rows(self, chosen: TaskClasses) -> SplitRows:
        """The base rows of each split; tasks of the same classes share them."""
        if chosen not in self._rows:
            config = self._stream.config
            images = self._images[chosen.dataset]
            rows = partition(images, chosen.classes, config.validation_fraction, self._split_seed, chosen.dataset)
            if self._train_on == "train_and_validation":
                merged = np.concatenate([rows["train"], rows["validation"]])
                rows = {"train": merged, "validation": merged[:0], "test": rows["test"]}
            self._rows[chosen] = rows
        return self._rows[chosen]

    def _task_rows(self, task: int) -> SplitRows:
        chosen = self._tasks[task]
        rows = self._class_rows(chosen)
        size = self._stream.config.train_per_task
        if size is None:
            return rows
        labels = self._images[chosen.dataset].train_labels
        return {**rows, "train": subsample(rows["train"], labels, size, self._split_seed, task)}

    def _mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Of images as the network sees them: the first task's training rows where they are asked for, else all."""
        if self._stream.config.normalize == "mean_std_first_task":
            return moments.of_part(self.part(0, "train"))
        shown = math.prod(self._base_shape) / math.prod(padded(self._base_shape, self._stream.config.pad))
        return moments.of_data_sets(list(self._images.values()), shown)

    def _data_digest(self) -> str:
        """Over the content of every data set, in the order of their names."""
        told = "\n".join(f"{name} {images.fingerprint}" for name, images in sorted(self._images.items()))
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def _split_hash(self) -> str:
        """Over every pixel, label and class order, the rows of every part, and every recipe."""
        digest = hashlib.sha256()
        for name, images in self._images.items():
            digest.update(f"{name} {images.fingerprint}\n".encode())
        for chosen in dict.fromkeys(self._tasks):
            for split, rows in self._class_rows(chosen).items():
                digest.update(f"{chosen} {split} {len(rows)}\n".encode())
                digest.update(rows.tobytes())
        for task, chosen in enumerate(self._tasks):
            recipe = self._recipe(task)
            digest.update(f"{task} {chosen} {recipe.pad} {recipe.angle}\n".encode())
            if recipe.permutation is not None:
                digest.update(recipe.permutation.tobytes())
            if self._stream.config.train_per_task is not None:
                digest.update(self._task_rows(task)["train"].tobytes())
        return digest.hexdigest()[:16]


def held(tasks: Iterable[TaskClasses], images: Mapping[str, Images]) -> tuple[Content, ...]:
    """What the tasks hold of each data set.

    Args:
        images: of each data set as it was read.
    """
    classes: dict[str, set[int]] = {}
    for task in dict.fromkeys(tasks):
        classes.setdefault(task.dataset, set()).update(task.classes)
    return tuple(Content(name, images[name].fingerprint, tuple(sorted(held))) for name, held in classes.items())


def contents_of(catalog: Registries, config: StreamConfig, seed: int, data_root: Path | None) -> tuple[Content, ...]:
    """What the tasks of a checked ``stream`` block hold of each data set; nothing is encoded.

    Raises:
        DataError: a data set is missing or does not fit the stream.
    """
    made = make_stream(catalog, config, seed)
    images = {name: load_images(name, data_root, datasets=catalog.datasets) for name in made.datasets()}
    return held(made.tasks({name: one.num_classes for name, one in images.items()}), images)


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


def stream_outline(catalog: Registries, config: StreamConfig) -> Outline | None:
    """The extent of a checked ``stream`` block, without its data; None where a data set, or the file of a
    backbone that encodes it, has to be read first.

    Raises:
        UnknownName: no such stream or data set.
        DataError: the data set does not fit the stream.
    """
    made = make_stream(catalog, config, 0)
    infos = {name: catalog.datasets.get(name).info for name in made.datasets()}
    known = {name: info for name, info in infos.items() if info is not None}
    if len(known) < len(infos):
        return None
    tasks = made.tasks({name: info.num_classes for name, info in known.items()})
    shape = common_shape(info.image_shape for info in known.values())
    rows = sum(info.train_size + info.test_size for info in known.values())
    sizes = tuple(len(task.classes) for task in tasks)
    if config.encode is not None:
        from raycl.streams.encode import known_features  # late: it imports torch

        features = known_features(config.encode)
        if features is None:
            return None
        return Outline(sizes, (features, 1, 1), rows * features * np.dtype(config.encode.dtype).itemsize)
    return Outline(sizes, padded(shape, config.pad), rows * math.prod(shape))
