"""One trial that a sweep wants, and what plans say of theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from raycl.matrix import Verdict
from raycl.results.standing import Asked
from raycl.spec.entry import Entry
from raycl.spec.trial import Scalar, SweepPhase, TrialSpec
from raycl.sweep.ledger import Records


@dataclass(frozen=True)
class Job:
    """One trial that a plan wants, and what may prune it.

    Attributes:
        cutoffs: task -> least search metric to go on with.
        bracket: the entry within which ASHA compares it; empty where ASHA does not.
        refused: why it is not run: which limit it would break; empty where it may run.
    """

    spec: TrialSpec
    cutoffs: Mapping[int, float]
    bracket: str = ""
    refused: str = ""


LimitCheck = Callable[[Mapping[str, Scalar]], str]
"""Which limit of the sweep a point is known to break; empty where none is."""


def nothing_broken(point: Mapping[str, Scalar]) -> str:
    return ""


class Plan(Protocol):
    """What one entry has to run, in one phase or in all."""

    entry: Entry

    @property
    def phase(self) -> SweepPhase: ...

    @property
    def total(self) -> int:
        """Trials that the present phase will have had in the end."""
        ...

    def jobs(self) -> Sequence[Job]:
        """All trials of the present phase that are known by now, ended or not, in order."""
        ...

    def wanted(self) -> Sequence[Job] | None:
        """Go on as far as the ended trials allow: what may run now; None once nothing is left to run."""
        ...


class Known:
    """A plan whose trials are all known when it is made; those that a limit refuses are none.

    Args:
        jobs: in order.
    """

    def __init__(self, ledger: Records, jobs: Sequence[Job]) -> None:
        self._ledger = ledger
        self._jobs = [job for job in jobs if not job.refused]

    @property
    def total(self) -> int:
        return len(self._jobs)

    def jobs(self) -> Sequence[Job]:
        return self._jobs

    def wanted(self) -> Sequence[Job] | None:
        return open_jobs(self._ledger, self._jobs) or None


def verdict_of(ledger: Records, job: Job) -> Verdict | None:
    """How a job ended under its cut-offs; None while it has to run."""
    if job.refused:
        return Verdict("failed", job.refused)
    record = ledger.record(job.spec)
    return None if record is None else record.under(job.cutoffs)


def open_jobs(ledger: Records, jobs: Sequence[Job]) -> list[Job]:
    """Those that have to run."""
    return [job for job in jobs if verdict_of(ledger, job) is None]


def asked_of(ledger: Records, jobs: Sequence[Job]) -> list[Asked]:
    """The jobs with their verdicts; those that share a trial stand once."""
    distinct = {job.spec.hash: job for job in jobs}
    return [Asked(job.spec, verdict=verdict_of(ledger, job)) for job in distinct.values()]
