"""Every built-in stream and data set, a line each. Installed packages add theirs through the entry-point groups
``raycl.streams`` and ``raycl.datasets``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from raycl.errors import DataError, UnknownName
from raycl.registry import Registry
from raycl.streams.arrays import ArraysInMemory, Load, LoadedBy, from_arrays
from raycl.streams.datasets import ConfigurableDataSet, DataSet, Info
from raycl.streams.stream import Stream

T = TypeVar("T", bound=type[Stream])


class DataSetRegistry(Registry[DataSet]):
    """Data sets by name. ``name:argument`` asks the entry ``name`` for one of its sets: ``parquet:cifar10``."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name.partition(":")[0] if isinstance(name, str) else name)

    def package(self, name: str) -> tuple[str, str] | None:
        return super().package(name.partition(":")[0])

    def get(self, name: str) -> DataSet:
        """Import and return the data set ``name``.

        Raises:
            UnknownName: no such entry, or the entry takes no argument or not this one.
        """
        family, colon, argument = name.partition(":")
        entry = super().get(family)
        if not colon:
            return entry
        if not isinstance(entry, ConfigurableDataSet):
            raise UnknownName(f"data set {family!r} takes no argument (got {name!r}); write {family!r}")
        return entry.configured(argument)


STREAMS: Registry[type[Stream]] = Registry(
    "stream",
    "raycl.streams",
    {
        "split": "raycl.streams.split:Split",
        "permuted": "raycl.streams.permuted:Permuted",
        "rotated": "raycl.streams.rotated:Rotated",
        "sequence": "raycl.streams.sequence:Sequence",
    },
)

DATASETS = DataSetRegistry(
    "data set",
    "raycl.datasets",
    {
        "digits": "raycl.streams.datasets:DIGITS",
        "mnist": "raycl.streams.vision:MNIST",
        "fashion_mnist": "raycl.streams.vision:FASHION_MNIST",
        "kmnist": "raycl.streams.vision:KMNIST",
        "cifar10": "raycl.streams.vision:CIFAR10",
        "cifar100": "raycl.streams.vision:CIFAR100",
        "parquet": "raycl.streams.parquet:PARQUET",
    },
)


def stream(name: str) -> Callable[[T], T]:
    """Register a stream of one's own: a class decorator for a :class:`raycl.streams.stream.Stream`.

    Raises:
        UnknownName: a stream of this name is built in or installed.
    """

    def register(entry: T) -> T:
        STREAMS.register(name, entry)
        return entry

    return register


def dataset(name: str, info: Info | None = None) -> Callable[[Load], Load]:
    """Register a data set of one's own: a decorator for a function that loads it.

    The function takes the folder of the data sets (or None), and returns training images uint8
    ``[n, channels, height, width]``, their labels ``[n]``, test images and test labels.

    Args:
        info: what is known without reading it; with it, ``raycl check`` builds every method.

    Raises:
        UnknownName: a data set of this name is built in or installed.
    """

    def register(load: Load) -> Load:
        DATASETS.register(name, LoadedBy(load, info))
        return load

    return register


def stream_from_arrays(
    x: np.ndarray,
    y: np.ndarray,
    *,
    test: tuple[np.ndarray, np.ndarray],
    tasks: int | Sequence[Sequence[int]],
    scenario: Literal["class", "task", "domain"] = "class",
    **options: Any,
) -> dict[str, Any]:
    """The ``stream`` block of a sweep over images in memory.

    Args:
        x: uint8 ``[n, channels, height, width]``.
        y: class ids 0..C - 1 ``[n]``.
        test: images and class ids that a final trial is scored on.
        tasks: how many tasks the classes are split into; or the classes of each, equally many but for the first.
        options: more of the block, such as ``validation_fraction``.

    Example:
        >>> x, y = np.zeros((40, 1, 8, 8), np.uint8), np.arange(40) % 4
        >>> block = stream_from_arrays(x, y, test=(x, y), tasks=[[0, 1], [2, 3]])
        >>> block["tasks"], block["class_order"]
        (2, [0, 1, 2, 3])
    """
    images = from_arrays(x, y, *test)
    name = f"arrays_{images.fingerprint[:16]}"
    info = Info(images.image_shape, images.num_classes, len(images.train_labels), len(images.test_labels))
    DATASETS.register(name, ArraysInMemory(images, info))
    block = {"name": "split", "dataset": name, "scenario": scenario, **options}
    if isinstance(tasks, int):
        return {**block, "tasks": tasks}
    sizes = [len(classes) for classes in tasks]
    if len(set(sizes[1:])) > 1:
        raise DataError(f"tasks must hold equally many classes, but for the first (got {sizes}); split them evenly")
    order = [int(label) for classes in tasks for label in classes]
    return {
        **block,
        "tasks": len(sizes),
        "class_order": order,
        "classes_per_task": sizes[-1],
        **({"first_task": sizes[0]} if sizes[0] != sizes[-1] else {}),
    }
