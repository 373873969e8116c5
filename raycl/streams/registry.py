"""Every built-in stream and data set, a line each. Installed packages add theirs through the entry-point groups
``raycl.streams`` and ``raycl.datasets``."""

from __future__ import annotations

from raycl.errors import UnknownName
from raycl.registry import Registry
from raycl.streams.datasets import ConfigurableDataSet, DataSet
from raycl.streams.stream import Stream


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
