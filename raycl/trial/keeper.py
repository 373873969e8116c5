"""What a trial asks of whoever keeps what it leaves, and the simplest one that does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from raycl.matrix import TaskRow, Verdict
from raycl.spec.trial import TrialSpec


class Mark(Protocol):
    """Names a stored state of a trial.

    Attributes:
        extra: what was told beside it.
    """

    @property
    def extra(self) -> Mapping[str, Any]: ...


M = TypeVar("M", bound=Mark)


class Keeper(Protocol[M]):
    """Keeps the rows, the states and the verdict of one trial. The results folder is one; :class:`InMemory` another."""

    spec: TrialSpec

    def begin(self) -> int:
        """Register an attempt; returns its number."""
        ...

    def restore(self) -> tuple[M, dict[str, bytes]] | None:
        """The newest state that can be read, with its mark; None where the trial starts from its beginning."""
        ...

    def rows(self, upto: M) -> list[TaskRow]:
        """The rows that led to a state."""
        ...

    def write_task(
        self,
        attempt: int,
        task: int,
        rows: Sequence[TaskRow],
        checkpoint: Mapping[str, bytes],
        extra: Mapping[str, Any],
    ) -> None:
        """Keep what a task left."""
        ...

    def finish(self, verdict: Verdict, provenance: Mapping[str, Any], traceback: str) -> None:
        """Keep how the trial ended."""
        ...


@dataclass
class InMemory:
    """Keeps the rows and the verdict of one trial for as long as the process lives; no states."""

    spec: TrialSpec
    kept: list[TaskRow] = field(default_factory=list)
    verdict: Verdict | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    traceback: str = ""

    def begin(self) -> int:
        return 0

    def restore(self) -> None:
        return None

    def rows(self, upto: Mark) -> list[TaskRow]:
        return list(self.kept)

    def write_task(
        self,
        attempt: int,
        task: int,
        rows: Sequence[TaskRow],
        checkpoint: Mapping[str, bytes],
        extra: Mapping[str, Any],
    ) -> None:
        self.kept += rows

    def finish(self, verdict: Verdict, provenance: Mapping[str, Any], traceback: str) -> None:
        self.verdict, self.provenance, self.traceback = verdict, provenance, traceback
