"""Everything a sweep file may name, in one object that the sweep specification is checked against."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from raycl.models.registry import MODELS
from raycl.registry import Registry
from raycl.spec.setting import Registered
from raycl.strategies.registry import STRATEGIES
from raycl.streams.registry import DATASETS, STREAMS


@dataclass(frozen=True)
class Catalog:
    """The four registries. A sweep is read with one, and its trials are built from the same."""

    strategies: Registry[Any]
    streams: Registry[Any]
    datasets: Registry[Any]
    models: Registry[Any]

    def snapshot(self) -> Catalog:
        """The same as it is now: what is registered later changes nothing in it."""
        return self.extended({})

    def extended(self, more: Registered) -> Catalog:
        """A copy with more entries, which stand before its own."""
        return Catalog(
            **{field.name: getattr(self, field.name).extended(more.get(field.name, {})) for field in fields(self)}
        )

    def beyond_installed(self) -> Registered:
        """What no other process finds by itself, for the catalogue of that process to be extended by."""
        usual = catalog()
        return {kind.name: getattr(self, kind.name).beyond(getattr(usual, kind.name)) for kind in fields(self)}


def catalog() -> Catalog:
    """The registries of this installation, entry points of installed packages included."""
    return Catalog(STRATEGIES, STREAMS, DATASETS, MODELS)
