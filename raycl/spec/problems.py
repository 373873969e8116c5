"""What is wrong in a sweep file, and what is to be warned of: each at its place, in the order of the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from raycl.errors import Problem, SpecError
from raycl.spec.source import MAX_PROBLEMS, Path, SweepSource, dotted


class Finding(NamedTuple):
    """Something to tell: a path in the file, the rule, the value found, and whether the key is what is wrong."""

    path: Path
    rule: str
    value: str = ""
    key: bool = False


class Problems:
    """The problems and warnings of one file."""

    def __init__(self, source: SweepSource) -> None:
        self._source = source
        self._refused: dict[Problem, None] = {}
        self._warned: dict[Problem, None] = {}

    def __len__(self) -> int:
        """How many problems there are; warnings are none."""
        return len(self._refused)

    def refuse(self, path: Path, rule: str, value: str = "", key: bool = False, at: Path | None = None) -> None:
        """Note a problem of ``path``; ``at``: where to point instead.

        Raises:
            SpecError: there are too many.
        """
        place = self._source.place(path if at is None else at, key)
        if len(self._refused) == MAX_PROBLEMS:
            raise SpecError([*self._sorted(), Problem("file", _MORE, file=self._source.file)])
        self._refused[Problem(dotted(path), rule, value, place.line, place.column, self._source.file)] = None

    def warn(self, found: Finding) -> None:
        self._warned[self._source.problem(found.path, found.rule, found.value, found.key)] = None

    def raise_any(self) -> None:
        """
        Raises:
            SpecError: with every problem, in file order.
        """
        if self._refused:
            raise SpecError(self._sorted())

    @property
    def warnings(self) -> tuple[str, ...]:
        """In file order."""
        return tuple(map(str, sorted(self._warned, key=_in_file_order)))

    def _sorted(self) -> Sequence[Problem]:
        return sorted(self._refused, key=_in_file_order)


_MORE = f"has more problems than these {MAX_PROBLEMS}"


def _in_file_order(problem: Problem) -> tuple[int, int]:
    return problem.line, problem.column
