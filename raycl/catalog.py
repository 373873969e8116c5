"""Everything a sweep file may name, in one object that the sweep specification is checked against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raycl.models.registry import MODELS
from raycl.registry import Registry
from raycl.strategies.registry import STRATEGIES
from raycl.streams.registry import DATASETS, STREAMS


@dataclass(frozen=True)
class Catalog:
    """The four registries."""

    strategies: Registry[Any]
    streams: Registry[Any]
    datasets: Registry[Any]
    models: Registry[Any]


def catalog() -> Catalog:
    """The registries of this installation, entry points of installed packages included."""
    return Catalog(STRATEGIES, STREAMS, DATASETS, MODELS)
