"""What a sweep was read with and nobody has installed travels by value: no worker could import a notebook's class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray import cloudpickle

from raycl.catalog import FILES, catalog
from raycl.spec.setting import Registries


def packed(known: Registries, *kinds: str) -> bytes:
    """What a worker lacks of a catalogue, in some registries (default: all); empty where it lacks nothing."""
    lacking = known.beyond_installed()
    entries = {kind: named for kind, named in lacking.items() if named and (not kinds or kind in kinds)}
    if not entries:
        return b""
    with _by_value():
        data: bytes = cloudpickle.dumps(entries)
    return data


def unpacked(data: bytes) -> Registries:
    """The catalogue that another process has packed: what is installed here, and what it lacks."""
    return catalog().extended(cloudpickle.loads(data) if data else {})


@contextmanager
def _by_value() -> Iterator[None]:
    """Modules that were made of a user's files go whole."""
    for module in FILES.values():
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in FILES.values():
            cloudpickle.unregister_pickle_by_value(module)
