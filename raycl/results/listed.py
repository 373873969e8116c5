"""What results lie below a folder: for each sweep its state, its best method, and when it last changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from raycl.addresses import shown
from raycl.errors import RayclError, StoreError
from raycl.results.comparison import Line
from raycl.results.files import Files
from raycl.results.lease import driver_of
from raycl.results.packed import Pack, is_pack
from raycl.results.reading import opened
from raycl.results.store import HEAD
from raycl.results.tables import Comparison, comparison

DEEPEST = 3
"""Folders below folders are looked into so far."""
State = Literal["complete", "stopped", "running", "in use elsewhere", "pack", "unreadable"]
CHANGING = (HEAD, "data", "winners", "suggestions", "trials.parquet")
"""What a sweep writes as it goes, without the many files of its trials."""


@dataclass(frozen=True)
class Listed:
    """One results folder, or pack.

    Attributes:
        path: relative to where one looked; empty for that folder itself.
        failed: methods that ended without their result, or with a part of it.
        trials: that have ended.
        best: of each variant the best method on validation data, else on test data; no upper bounds.
        changed: seconds since the epoch.
        problem: why it cannot be read.
    """

    path: str
    state: State
    sweep: str = ""
    failed: int = 0
    trials: int = 0
    best: tuple[Line, ...] = ()
    changed: float | None = None
    problem: str = ""


def listed(root: str) -> list[Listed]:
    """Every results folder and pack below a root, or the root itself; the one that changed last first.

    Raises:
        StoreError: there is no such folder.
    """
    files = Files.at(root)
    if not files.children(""):
        raise StoreError(f"{files.name('')}: no folder, or an empty one; give the ROOT below which results lie")
    found = [_listed(files, path) for path in _places(files, "", DEEPEST)]
    return sorted(found, key=lambda one: (-(one.changed or 0.0), one.path))


def _places(files: Files, path: str, depth: int) -> Iterator[str]:
    below = _below(files, path)
    if below.exists(HEAD) or is_pack(below):
        yield path
    elif depth:
        for name in files.folders(path):
            yield from _places(files, f"{path}/{name}" if path else name, depth - 1)


def _below(files: Files, path: str) -> Files:
    return Files.at(f"{files.uri}/{path}") if path else files


def _listed(files: Files, path: str) -> Listed:
    below = _below(files, path)
    changed = below.changed(CHANGING)
    try:
        results = opened(below.uri)
        table = comparison(results)
        state = _state(below, table, isinstance(results, Pack))
        return Listed(path, state, results.name, len(table.failed), len(results.ended()), best_of(table), changed)
    except RayclError as error:  # the others are still worth listing
        return Listed(path, "unreadable", changed=changed, problem=shown(str(error)))


def _state(files: Files, table: Comparison, packed: bool) -> State:
    driver = None if packed else driver_of(files)
    if driver == "alive":
        return "running"
    if packed or table.complete:
        return "pack" if packed else "complete"
    return "in use elsewhere" if driver == "unknown" else "stopped"


def best_of(table: Comparison) -> tuple[Line, ...]:
    """The first line of each family that is no upper bound and has test figures."""
    found: dict[str, Line] = {}
    for line in table.lines:
        if line.scored_on == "test" and line.interval is not None and not line.upper_bound:
            found.setdefault(line.family, line)
    return tuple(found.values())
