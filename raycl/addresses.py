"""Paths and addresses as people give them, and as they may be shown."""

from __future__ import annotations

import re
from pathlib import Path

from raycl.errors import PathError

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
