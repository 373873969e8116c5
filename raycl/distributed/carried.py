"""What the driver has registered travels by value: workers could not import a notebook's class from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray import cloudpickle

from raycl.catalog import FILES, adopt, registered


def packed(*kinds: str) -> bytes:
    """The entries that this process has registered in some registries (default: all); empty where there are none."""
    entries = {kind: named for kind, named in registered().items() if named and (not kinds or kind in kinds)}
    if not entries:
        return b""
    with _by_value():
        data: bytes = cloudpickle.dumps(entries)
    return data


def unpack(data: bytes) -> None:
    """Register what another process has packed."""
    if data:
        adopt(cloudpickle.loads(data))


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
