"""What a sweep has decided and written down: suggestions and winners, one file each, never changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from raycl.results.files import dump_json
from raycl.results.store import ResultsFolder
from raycl.spec.entry import Entry
from raycl.spec.sweep import SweepSpec

Decisions: TypeAlias = Mapping[str, Mapping[str, Any]]
"""What was decided, by the file's path in the results folder."""

ReadJson: TypeAlias = Callable[[str], Mapping[str, Any] | None]

_WINNER = re.compile(r"(winners/.+?)(\+[0-9a-f]{8})?\.json")
_SUGGESTION = re.compile(r"(.+)/\d{4,}\.json")


def suggestion_path(entry: Entry, index: int) -> str:
    """Where suggestion ``index`` of an entry is written down."""
    return f"{suggestions_folder(entry)}/{index:04d}.json"


def suggestions_folder(entry: Entry) -> str:
    """Where all suggestions of an entry are written down."""
    return f"suggestions/{entry.stored_as}"


def carry_suggestions(results: ResultsFolder, before: Entry, now: Entry) -> None:
    """Let an entry go on with the suggestions that it had under another name: values that joined its space can change
    the name, and no trial that was run."""
    if before.stored_as == now.stored_as:
        return
    for name in sorted(results.files.sizes(suggestions_folder(before))):
        suggestion = results.read_json(f"{suggestions_folder(before)}/{name}")
        if suggestion is not None:
            results.write_json_once(f"{suggestions_folder(now)}/{name}", suggestion)


def read_winner(read: ReadJson, sweep: SweepSpec, entry: Entry) -> Mapping[str, Any] | None:
    """The winner of an entry by what its sweep chooses by; None before there is one.

    A winner that does not say what it was chosen by is of an earlier raycl, whose folders did not grow: it counts.

    Args:
        read: the JSON object at a path of the folder, None where there is none.
    """
    if not entry.space:
        return {"point": {}, "selected_by": "nothing to search"}
    basis = sweep.basis(entry)
    found = (read(path) for path in _winner_paths(entry, basis))
    return next((winner for winner in found if winner is not None and winner.get("basis", basis) == basis), None)


def pareto(winner: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The points that a winner's file names, the most accurate first: of one objective the winner alone."""
    found: Sequence[Mapping[str, Any]] = winner.get("pareto", [winner])
    return found


def write_winner(results: ResultsFolder, sweep: SweepSpec, entry: Entry, winner: Mapping[str, Any]) -> None:
    """Write a winner down, once; one that was chosen by fewer trials, or other seeds, stays beside it."""
    basis = sweep.basis(entry)
    first, further = _winner_paths(entry, basis)
    record = {**winner, "basis": basis}
    if results.write_json_once(first, record).get("basis", basis) != basis:
        results.write_json_once(further, record)


def stamp_winner(results: ResultsFolder, sweep: SweepSpec, entry: Entry) -> None:
    """Let a winner that does not say it be told from later ones: it was chosen by what the sweep chose by till now."""
    winner = results.read_json(winner_path(entry))
    if winner is not None and "basis" not in winner:
        results.files.write(winner_path(entry), dump_json({**winner, "basis": sweep.basis(entry)}))


def forget_winners(results: ResultsFolder, entry: Entry) -> None:
    """Delete all winners of an entry."""
    for name in results.files.sizes("winners"):
        if _is_winner(entry, f"winners/{name}"):
            results.files.delete(f"winners/{name}")


def winner_path(entry: Entry) -> str:
    """Where the first winner of an entry is written down."""
    return f"{_winner_stem(entry)}.json"


def _winner_paths(entry: Entry, basis: str) -> tuple[str, str]:
    return winner_path(entry), f"{_winner_stem(entry)}+{basis}.json"


def _is_winner(entry: Entry, path: str) -> bool:
    found = _WINNER.fullmatch(path)
    return found is not None and found[1] == _winner_stem(entry)


def _winner_stem(entry: Entry) -> str:
    return f"winners/{entry.stored_as}"


def read_decisions(results: ResultsFolder, entries: Iterable[Entry]) -> Decisions:
    """All decisions of some entries; files that are none of theirs are left out, as copies that a person or a program
    has laid beside them.

    Raises:
        TornFile: one is damaged.
    """
    asked = list(entries)
    folders = {suggestions_folder(entry) for entry in asked}
    winners = {_winner_stem(entry) for entry in asked}
    there = [f"{folder}/{name}" for folder in ("suggestions", "winners") for name in results.files.sizes(folder)]
    paths = [
        path
        for path in there
        if ((found := _WINNER.fullmatch(path)) is not None and found[1] in winners)
        or ((found := _SUGGESTION.fullmatch(path)) is not None and found[1] in folders)
    ]
    with ThreadPoolExecutor(8) as pool:  # on object stores the time is all latency
        values = pool.map(results.read_json, paths)
        return {path: value for path, value in zip(paths, values, strict=True) if value is not None}
