"""The exceptions of raycl.

    RayclError
    ├── SpecError            a sweep file breaks a rule; carries every problem with its place
    ├── UnknownName          a name that no registry knows; suggests the nearest
    ├── PathError            a path, or a cluster's address, names no place
    ├── DataError            a data set is missing, unreadable or does not fit the stream
    ├── MethodError          a strategy failed on its own: told to the search as a failure, never retried
    ├── InfrastructureError  a worker, actor, node or storage was lost: retried, never told to the search
    ├── OutputError          what was asked for cannot be printed: standard output is full or gone
    └── StoreError           a results folder cannot be used
        ├── TornFile         a file there is incomplete or does not match its manifest
        └── FolderInUse      another driver holds the folder's lease

Each message states the rule, the value found and the remedy.

What a command ends with says whether to type it again (:func:`exit_code`): 0 complete; 1 stopped, and the same command
goes on; 2 bad input or missing data, and nothing began; 3 complete, with methods that failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class RayclError(Exception):
    """Base of everything that raycl raises on purpose."""


@dataclass(frozen=True)
class Problem:
    """One broken rule of a sweep file: where it stands and what to do about it."""

    path: str
    rule: str
    value: str = ""
    line: int = 0
    column: int = 0
    file: str = ""

    def __str__(self) -> str:
        got = f" (got {self.value})" if self.value else ""
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        return f"{place + ': ' if place else ''}{self.path}: {self.rule}{got}"


class SpecError(RayclError):
    """A sweep file breaks one or more rules."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Problem, ...]]]:
        return SpecError, (self.problems,)


class UnknownName(RayclError):
    """A name that no registry knows."""


class PathError(RayclError):
    """A path, or a cluster's address, names no place."""


class DataError(RayclError):
    """A data set is missing, unreadable or does not fit the stream."""


class MethodError(RayclError):
    """A strategy failed on its own, for example with a loss that is not finite."""


class InfrastructureError(RayclError):
    """Something outside the method was lost; the same work may well succeed elsewhere."""


class OutputError(RayclError):
    """Standard output cannot be written."""


class StoreError(RayclError):
    """A results folder cannot be used."""


class TornFile(StoreError):
    """A stored file is incomplete or does not match its manifest."""


class FolderInUse(StoreError):
    """Another driver holds the lease of the results folder."""


COMPLETE, STOPPED, REFUSED, METHODS_FAILED = range(4)
"""The exit codes of commands."""


def exit_code(error: RayclError) -> int:
    """The exit code of a command that an error ends."""
    if isinstance(error, (InfrastructureError, FolderInUse)):
        return STOPPED  # the same command goes on once the cluster answers, or the other driver has left
    return METHODS_FAILED if isinstance(error, MethodError) else REFUSED


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name nearest to ``name``, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
