"""Where Ray is, or where it may be started: found out in seconds, before Ray itself waits for minutes."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from ray._private import services

from raycl.addresses import shown
from raycl.errors import InfrastructureError, PathError

PORT_SECONDS = 10.0
"""Patience with a port that does not answer."""
LONGEST_SOCKET = 107
"""Bytes of a socket's path that the system takes."""
BELOW = len("/session_2026-01-31_23-59-59_999999_4194304") + len("_99") + len("/sockets/plasma_store")
"""Bytes that Ray puts behind its folder."""
_FORM = "a Ray cluster's address is HOST:PORT or `auto`"
SHORT = ("/tmp", "/var/tmp", "/dev/shm")


def target(address: str | None) -> str | None:
    """The cluster to join, from what was given or ``RAY_ADDRESS``; None where one is to be started here."""
    found = address or os.environ.get("RAY_ADDRESS") or None
    return None if found == "local" else found


def knock(address: str, patience: float = PORT_SECONDS) -> None:
    """Find out whether anybody listens at a cluster's address; Ray's own client would try for many minutes.

    Args:
        address: as Ray takes it, ``auto`` too.

    Raises:
        InfrastructureError: nobody does.
        PathError: it is no address.
    """
    told = shown(address)
    try:
        place = services.canonicalize_bootstrap_address(address) if address == "auto" else address
        parts = urlsplit(place if "://" in str(place) else f"//{place}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise PathError(f"{_FORM} (got {told!r}: {error}); see RAY_ADDRESS") from error
    except OSError as error:
        raise InfrastructureError(f"the Ray cluster at {told} cannot be found: {error}") from error
    if not host or not port:
        raise PathError(f"{_FORM} (got {told!r}); see RAY_ADDRESS")
    where = told if told == f"{host}:{port}" else f"{told} ({host}:{port})"
    try:
        socket.create_connection((host, port), timeout=patience).close()
    except OSError as error:
        raise InfrastructureError(
            f"the Ray cluster at {where} cannot be reached: {error.strerror or error}; start it, give the address of "
            "one that runs, or unset RAY_ADDRESS to start Ray on this machine"
        ) from error


@contextmanager
def ray_folder() -> Iterator[str]:
    """A folder for Ray's logs and sockets: the one of its choice, or a short one where that will not do.

    Raises:
        InfrastructureError: there is none whose path is short enough and that can be written.
    """
    usual = f"{Path(os.environ.get('RAY_TMPDIR') or os.environ.get('TMPDIR') or '/tmp').absolute()}/ray"
    if _will_do(usual):
        yield usual
        return
    made = _short_folder()
    if made is None:
        raise InfrastructureError(
            f"Ray needs a folder that can be written and whose path has at most {LONGEST_SOCKET - BELOW} bytes (got "
            f"{usual}, and none of {', '.join(SHORT)} will do); set RAY_TMPDIR to one"
        )
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _short_folder() -> str | None:
    """A new folder for this run alone."""
    for parent in SHORT:
        with suppress(OSError):
            folder = tempfile.mkdtemp(prefix="ray", dir=parent)
            if _will_do(folder):
                return folder
            Path(folder).rmdir()
    return None


def _will_do(folder: str) -> bool:
    """Whether Ray can live there."""
    if len(os.fsencode(folder)) + BELOW > LONGEST_SOCKET:
        return False
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True
