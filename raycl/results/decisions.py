"""What a sweep has decided and written down: suggestions and winners, one file each, never changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from raycl.results.store import Results
from raycl.spec.entry import Entry

Decisions: TypeAlias = Mapping[str, Mapping[str, Any]]
"""What was decided, by the file's path in the results folder."""

_FILES = {"suggestions": re.compile(r"(.+/)?\d{4,}\.json"), "winners": re.compile(r".+\.json")}


def suggestion_path(entry: Entry, index: int) -> str:
    """Where suggestion ``index`` of an entry is written down."""
    return f"{suggestions_folder(entry)}/{index:04d}.json"


def suggestions_folder(entry: Entry) -> str:
    """Where all suggestions of an entry are written down."""
    return f"suggestions/{entry.stored_as}"


def winner_path(entry: Entry) -> str:
    """Where the winner of an entry is written down."""
    return f"winners/{entry.stored_as}.json"


def read_decisions(results: Results) -> Decisions:
    """All decisions of a folder; files that are none of ours are left out.

    Raises:
        TornFile: one is damaged.
    """
    paths = [
        f"{folder}/{name}"
        for folder, ours in _FILES.items()
        for name in results.files.sizes(folder)
        if ours.fullmatch(name)
    ]
    with ThreadPoolExecutor(8) as pool:  # on object stores the time is all latency
        found = pool.map(results.read_json, paths)
        return {path: value for path, value in zip(paths, found, strict=True) if value is not None}
