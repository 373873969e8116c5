"""Lets the MLflow store in a results folder follow the folder: where its runs keep their files is an absolute path."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from raycl.results.trackers.mlflow_address import DATABASE

ARTIFACTS = "mlartifacts"
_PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


def home(folder: Path) -> str:
    """The address below which the runs of a folder's own store keep their files."""
    return (folder / ARTIFACTS).as_uri()


def follow(folder: Path) -> int:
    """Let the runs of a folder's store keep their files in this folder, where it was copied or moved.

    Without that, the runs of a copy are read from the original, and new ones written there.

    Returns:
        How many places were changed; 0 where all was well, or where there is no store.

    Raises:
        sqlite3.Error: the file is damaged, or no store.
    """
    database = folder / DATABASE
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        changed = 0
        for table, column in _PLACES:
            rows = connection.execute(
                f"SELECT rowid, {column} FROM {table} WHERE {column} LIKE ?", (f"%/{ARTIFACTS}%",)
            )
            for row, place in rows.fetchall():
                below = place.rpartition(f"/{ARTIFACTS}")[2]
                if place != home(folder) + below:
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (home(folder) + below, row))
                    changed += 1
    return changed
