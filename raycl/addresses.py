"""Paths and addresses as people give them, as they may be shown, and whether what is absent may be fetched."""

from __future__ import annotations

import os
import re
from pathlib import Path

from raycl.errors import PathError, StoreError

DOWNLOAD_VARIABLE = "RAYCL_DOWNLOAD"
"""Environment variable that allows downloads of data sets and weights from their publishers when it is ``1``."""
SECRET = re.compile(r"(?<=://)([^/?#@\s:]*):(?!\d+/)(\S*)@")
"""User and password before a host; the password may itself hold ``@``, ``:`` or ``/``, as SQLAlchemy takes it. What
follows a host and its port is none."""
SECRET_KEY = re.compile(r"(?i)([?&][^=&#\s]*(?:pass|pwd|secret|token|key)[^=&#\s]*=)[^&#\s]+")


def expanded(path: str | Path) -> Path:
    """The path with a leading ``~`` or ``~name`` replaced by that home.

    Raises:
        PathError: there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise PathError(
            f"{path}: a leading ~ stands for a home folder ({error}); write ./~ for a file's name"
        ) from error


def shown(text: object) -> str:
    """A text without the passwords of the addresses in it, for screens and logs."""
    hidden = SECRET.sub(lambda found: f"{found[1]}:***@", str(text))
    return SECRET_KEY.sub(r"\1***", hidden)


def write_file(path: Path, data: bytes) -> None:
    """Write a file that a person has named.

    Raises:
        PathError: it cannot be written.
    """
    try:
        path.write_bytes(data)
    except OSError as error:
        raise PathError(f"{path}: cannot be written: {error.strerror}; give another file") from error


def inside_job() -> bool:
    """Whether this process was started as a Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def absolute(uri: str, variable: str) -> str:
    """A results folder or data root that means the same in every process.

    Raises:
        StoreError: it is relative inside a Ray job, where the working directory is a temporary copy.
    """
    if "://" in uri:
        return uri
    if expanded(uri).is_absolute():
        return str(expanded(uri))
    if inside_job():
        raise StoreError(
            f"inside a Ray job the working directory is temporary, so {uri!r} would be lost; "
            f"give an absolute path or a URI, or set {variable} to one"
        )
    return str(Path(uri).absolute())


def default_data_root() -> str | None:
    """Where data sets lie unless one is told; None inside a job, whose "here" is a temporary copy."""
    return None if inside_job() else str(Path("data").absolute())


def downloads_allowed() -> bool:
    """Whether the user has allowed downloads."""
    return os.environ.get(DOWNLOAD_VARIABLE) == "1"
