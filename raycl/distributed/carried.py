"""What a sweep was read with and workers lack travels to them: they could not import a notebook's class, or a user's
file."""

from __future__ import annotations

from ray import cloudpickle

from raycl.catalog import catalog
from raycl.errors import UnknownName
from raycl.spec.own_files import FILES, know, told
from raycl.spec.setting import Registries


def packed(known: Registries, *kinds: str) -> bytes:
    """What a worker lacks of a catalogue, in some registries (default: all); empty where it lacks nothing.

    Raises:
        UnknownName: something of it cannot travel.
    """
    lacking = known.beyond_installed()
    entries = {kind: named for kind, named in lacking.items() if named and (not kinds or kind in kinds)}
    if not entries:
        return b""
    try:
        data: bytes = cloudpickle.dumps((FILES, cloudpickle.dumps(entries)))
    except Exception as error:  # pickle raises whatever the object does
        raise UnknownName(
            f"what was registered here cannot be sent to workers: {type(error).__name__}: {error}; make what holds a "
            "file, lock or connection inside the functions that use it, or take backend `here`"
        ) from error
    return data


def unpacked(data: bytes) -> Registries:
    """The catalogue that another process has packed: what is installed here, and what it lacks.

    Raises:
        UnknownName: a file of the user's cannot be imported here.
    """
    if not data:
        return catalog()
    files, entries = cloudpickle.loads(data)
    know(files)
    try:
        return catalog().extended(cloudpickle.loads(entries))
    except Exception as error:  # whatever a user's code raises
        raise UnknownName(
            f"what was registered cannot be imported on a worker: {told(error)}; a file is imported anew there: read "
            "and import nothing in it that is on one machine alone, or take backend `here`"
        ) from error
