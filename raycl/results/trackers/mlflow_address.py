"""Where a sweep's runs are logged, and what is said of a place that cannot be used."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from raycl.addresses import shown
from raycl.results.reading import Folder, opened

DATABASE = "mlflow.db"
VARIABLE = "MLFLOW_TRACKING_URI"
PASSING = ("locked", "readonly", "read-only", "disk i/o", "is full", "no space", "unable to open", "permission")
"""Words of errors that a file's deletion would not mend."""


def tracking_uri(folder: Folder) -> str | None:
    """``MLFLOW_TRACKING_URI``, or a SQLite file beside local results; None where neither can be (:func:`nowhere`).

    It may hold a password: :func:`raycl.addresses.shown` says how to show it.
    """
    asked = os.environ.get(VARIABLE)
    local = opened(folder).files.local
    if asked or local is None:
        return asked or None
    return beside(local) or None


def nowhere(folder: Folder) -> str:
    """Why no runs are logged where :func:`tracking_uri` is None, and what to do."""
    files = opened(folder).files
    why = "is no local folder" if files.local is None else "has a name that is no text, as addresses are"
    return f"{files.name('')} {why}: set {VARIABLE} to say where its runs are logged"


def beside(folder: Path) -> str:
    """The address of the SQLite file in a folder of any name: ``?`` and ``%`` mean something in an address. Empty where
    the name is no text, as those of files may be.

    MLflow makes the folder that it reads in an address beginning with ``sqlite:///``, and does not know that signs are
    escaped there; where some are, the driver is named, which it takes for SQLAlchemy's to read.
    """
    from sqlalchemy.engine import URL  # late, as it is needed by what logs alone

    plain = f"sqlite:///{folder / DATABASE}"
    try:
        written = URL.create("sqlite", database=str(folder / DATABASE)).render_as_string()
    except UnicodeEncodeError:
        return ""
    return plain if written == plain else written.replace("sqlite:", "sqlite+pysqlite:", 1)


def ui_command(folder: Folder) -> str:
    """What a person types to see the runs; empty where nothing is logged."""
    return f"raycl ui {shlex.quote(shown(opened(folder).uri))}" if tracking_uri(folder) else ""


def unusable(folder: Folder, uri: str, error: Exception) -> str:
    """What stands in the way of a mirror, and what to do: a file that will never do is named and deleted."""
    local, why = opened(folder).files.local, short(error)
    if local is None or uri != beside(local) or any(word in str(error).lower() for word in PASSING):
        return f"MLflow at {shown(uri)} cannot be used ({why}); results are on disk, run `raycl sync` later"
    return (
        f"MLflow's file {local / DATABASE} is damaged or of another version of MLflow ({why}); it is a mirror: delete "
        f"it, and `raycl sync {shlex.quote(str(local))}` writes it again"
    )


def short(error: Exception) -> str:
    """The first line of an error, without passwords."""
    return shown(str(error).splitlines()[0][:200]) if str(error) else type(error).__name__
