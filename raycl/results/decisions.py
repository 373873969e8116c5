"""What a sweep has decided and written down: suggestions and winners, one file each, never changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from raycl.results.store import ResultsFolder
from raycl.spec.entry import Entry

Decisions: TypeAlias = Mapping[str, Mapping[str, Any]]
"""What was decided, by the file's path in the results folder."""

_SUGGESTION = re.compile(r"(.+)/\d{4,}\.json")


def suggestion_path(entry: Entry, index: int) -> str:
    """Where suggestion ``index`` of an entry is written down."""
    return f"{suggestions_folder(entry)}/{index:04d}.json"


def suggestions_folder(entry: Entry) -> str:
    """Where all suggestions of an entry are written down."""
    return f"suggestions/{entry.stored_as}"


def winner_path(entry: Entry) -> str:
    """Where the winner of an entry is written down."""
    return f"winners/{entry.stored_as}.json"


def read_decisions(results: ResultsFolder, entries: Iterable[Entry]) -> Decisions:
    """All decisions of some entries; files that are none of theirs are left out, as copies that a person or a program
    has laid beside them.

    Raises:
        TornFile: one is damaged.
    """
    asked = list(entries)
    folders, winners = {suggestions_folder(entry) for entry in asked}, {winner_path(entry) for entry in asked}
    there = [f"{folder}/{name}" for folder in ("suggestions", "winners") for name in results.files.sizes(folder)]
    paths = [
        path
        for path in there
        if path in winners or ((found := _SUGGESTION.fullmatch(path)) is not None and found[1] in folders)
    ]
    with ThreadPoolExecutor(8) as pool:  # on object stores the time is all latency
        values = pool.map(results.read_json, paths)
        return {path: value for path, value in zip(paths, values, strict=True) if value is not None}
