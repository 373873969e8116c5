"""What a sweep has to run: suggestions in generations, finalists, winners over final seeds.

A plan belongs to one entry (a strategy of a variant). Its state is what the results folder holds: suggestions and
winners are written once and read back ever after, and trials count by their verdicts. So a plan gives the same trials
in whatever order they end, and asking again repeats nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raycl.results.decisions import pareto, read_winner
from raycl.spec.choosing import chooses
from raycl.spec.sweep import Entry, SweepSpec
from raycl.spec.trial import SweepPhase
from raycl.sweep.choosing import choosing_trials
from raycl.sweep.finalists import FinalistsPlan
from raycl.sweep.job import Job, Known, LimitCheck, Plan, asked_of, nothing_broken
from raycl.sweep.ledger import Ledger
from raycl.sweep.search import SearchPlan


class FinalPlan(Known):
    """The winner over fresh seeds, scored on test data. An entry without a space has one point, and no search.

    Trials that choose as they go have no winner.
    """

    phase: SweepPhase = "final"

    def __init__(self, sweep: SweepSpec, entry: Entry, ledger: Ledger) -> None:
        assert sweep.final is not None
        self.entry = entry
        if chooses(sweep, entry):
            specs = choosing_trials(sweep, entry, ledger)
        else:
            winner = read_winner(ledger.results.read_json, sweep, entry)
            points = [chosen["point"] for chosen in pareto(winner)] if winner is not None else []
            specs = [sweep.trial(entry, point, seed, self.phase) for point in points for seed in sweep.final.runs]
        super().__init__(ledger, [Job(spec, {}) for spec in specs])


class EntryPlan:
    """All that one entry has to run: its search, its finalists, its winner over the final seeds.

    Each phase is planned when the one before has ended, whatever other entries do, so that no slot waits for them.

    Attributes:
        ended_before: trials of the phases before the present one.
        failed_before: those of them that failed.
    """

    def __init__(self, sweep: SweepSpec, entry: Entry, ledger: Ledger, broken: LimitCheck = nothing_broken) -> None:
        self.entry = entry
        self.ended_before = 0
        self.failed_before = 0
        self._ledger = ledger
        self._stage: Plan | None = None
        self._choosing: FinalistsPlan | None = None
        self._following: list[Callable[[], Plan]] = []
        if sweep.search is not None and sweep.runs(entry).search:
            self._stage = search = SearchPlan(sweep, entry, ledger, broken)
            self._following.append(lambda: self._choose(FinalistsPlan(sweep, search, ledger)))
        if sweep.final is not None:
            self._following.append(lambda: FinalPlan(sweep, entry, ledger))

    @property
    def phase(self) -> SweepPhase:
        return self._stage.phase if self._stage else "final"

    @property
    def total(self) -> int:
        return self._stage.total if self._stage else 0

    def jobs(self) -> Sequence[Job]:
        return self._stage.jobs() if self._stage else ()

    def wanted(self) -> Sequence[Job] | None:
        while True:
            jobs = self._stage.wanted() if self._stage else None
            if jobs is not None:
                return jobs
            if not self._following:
                return None
            stage = self._following[0]()  # where the storage is away, nothing has moved yet
            failed = sum(asked.failed for asked in asked_of(self._ledger, self.jobs()))
            self.ended_before += len(self.jobs())
            self.failed_before += failed
            self._stage = stage
            del self._following[0]

    @property
    def failure(self) -> str:
        """Why the method ends without a winner; empty while it does not."""
        return self._choosing.failure if self._choosing else ""

    def _choose(self, plan: FinalistsPlan) -> FinalistsPlan:
        self._choosing = plan
        return plan
