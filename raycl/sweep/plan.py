"""What a sweep has to run: suggestions in generations, finalists, winners over final seeds.

A plan belongs to one entry (a strategy of a variant). Its state is what the results folder holds: suggestions and
winners are written once and read back ever after, and trials count by their verdicts. So a plan gives the same trials
in whatever order they end, and asking again repeats nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import optuna

from raycl.matrix import Verdict
from raycl.results.decisions import read_winner, suggestion_path, write_winner
from raycl.results.outcomes import Outcome, ranked, score
from raycl.results.standing import Asked, no_finalist_finished, no_suggestion_finished
from raycl.spec.choosing import chooses
from raycl.spec.points import Point
from raycl.spec.sweep import Entry, SweepSpec
from raycl.spec.sweep_options import SearchConfig
from raycl.spec.trial import Scalar, SweepPhase, TrialSpec
from raycl.sweep.choosing import choosing_trials
from raycl.sweep.ledger import Ledger
from raycl.sweep.suggestions import Suggester, cutoffs, sampler_seed


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


def _nothing(point: Mapping[str, Scalar]) -> str:
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


class SearchPlan:
    """Suggestions in generations.

    Suggestion i sees exactly the results of the earlier generations and the points of its own generation that come
    before it; its sampler is seeded by (search seed, entry, i), and it is written down before its trials start. The
    first ``startup`` suggestions see nothing.
    """

    phase: SweepPhase = "search"

    def __init__(self, sweep: SweepSpec, entry: Entry, ledger: Ledger, broken: LimitCheck = _nothing) -> None:
        assert sweep.search is not None
        self.entry = entry
        self._broken = broken
        self._refused = 0
        self._sweep = sweep
        self._search: SearchConfig = sweep.search
        self._ledger = ledger
        self._jobs: list[tuple[Job, ...]] = []
        self._points: list[Point] = []
        self._carried: dict[str, Mapping[int, float]] = {}
        self._outcomes: list[Outcome] = []
        self._all_made = False
        self._suggester = Suggester(entry.space, sweep.search, entry.key, tuple(sweep.first_points(entry)))

    @property
    def total(self) -> int:
        made = max(self._sweep.suggestions(self.entry), len(self._jobs) - self._refused)
        return made * len(self._search.runs)

    def jobs(self) -> Sequence[Job]:
        return [job for jobs in self._jobs for job in jobs]

    def wanted(self) -> Sequence[Job] | None:
        self._settle()
        while not self._complete and len(self._outcomes) >= self._seen(len(self._jobs)):
            self._add(len(self._jobs))
            self._settle()
        if self._complete and len(self._outcomes) == len(self._jobs):
            return None
        return _open(self._ledger, [job for jobs in self._jobs[len(self._outcomes) :] for job in jobs])

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """How the suggestions ended, by index, as far as all earlier ones have ended."""
        return self._outcomes

    def specs(self, index: int) -> tuple[TrialSpec, ...]:
        """The trials of a suggestion, one per search seed."""
        return tuple(job.spec for job in self._jobs[index])

    # -- generations -------------------------------------------------------------------------------------------

    @property
    def _complete(self) -> bool:
        """Whether all suggestions have been made. An earlier raycl may have stored a small space's points twice."""
        if not self._all_made and self._sweep.tried(self.entry, self._points, self._refused):
            more = len(self._points) - self._refused < self._search.trials
            self._all_made = not (more and self._stored(len(self._points)) is not None)
        return self._all_made

    def _seen(self, index: int) -> int:
        """How many outcomes suggestion ``index`` sees: all before its generation. The start sees none."""
        search = self._search
        if not self._sweep.learns(self.entry) or index < search.startup:
            return 0
        return index - (index - search.startup) % search.generation

    def _add(self, index: int) -> None:
        suggestion = self._suggestion(index)
        point, refused = suggestion["point"], suggestion.get("refused", "")
        limits = {int(task): float(value) for task, value in suggestion["cutoffs"].items()}
        specs = [self._sweep.trial(self.entry, point, seed, self.phase) for seed in self._search.runs]
        for spec in specs:  # the first suggestion of a trial decides its cut-offs; later ones are told the same value
            self._carried.setdefault(spec.hash, limits)
        self._points.append(point)
        self._refused += bool(refused)
        pruner = self._sweep.pruner
        bracket = self.entry.key if pruner is not None and pruner.scheduler == "asha" else ""
        self._jobs.append(tuple(Job(spec, self._carried[spec.hash], bracket, refused) for spec in specs))

    def _suggestion(self, index: int) -> dict[str, Any]:
        stored = self._stored(index)
        if stored is not None:
            return stored
        seen = tuple(self._outcomes[: self._seen(index)])
        pruner = self._sweep.pruner
        by_generation = pruner is not None and pruner.scheduler == "generations" and seen
        limits = cutoffs(pruner, self._curves(len(seen))) if pruner is not None and by_generation else {}
        drawn = self._suggester.draw(index, seen, self._points)
        suggestion = {
            "index": index,
            "point": drawn.point,
            "how": drawn.how,
            **({"refused": refused} if (refused := self._broken(drawn.point)) else {}),
            "sampler": self._search.sampler,
            "cutoffs": {str(task): value for task, value in limits.items()},
            "sampler_seed": sampler_seed(self._search, self.entry.key, index),
            "seen": len(seen),
            "optuna": optuna.__version__,
        }
        return self._ledger.results.write_json_once(suggestion_path(self.entry, index), suggestion)

    def _stored(self, index: int) -> dict[str, Any] | None:
        return self._ledger.results.read_json(suggestion_path(self.entry, index))

    def _curves(self, count: int) -> list[Mapping[int, float]]:
        """The curves of the trials of the first ``count`` suggestions, each trial once, up to its verdict."""
        jobs = {job.spec.hash: job for jobs in self._jobs[:count] for job in jobs}
        return [self._curve(job) for job in jobs.values()]

    def _curve(self, job: Job) -> Mapping[int, float]:
        record = self._ledger.record(job.spec)
        return record.curve_under(job.cutoffs) if record else {}

    # -- results -----------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Take in the outcomes of ended suggestions, in their order."""
        while len(self._outcomes) < len(self._jobs):
            index = len(self._outcomes)
            verdicts = [verdict_of(self._ledger, job) for job in self._jobs[index]]
            ended = [verdict for verdict in verdicts if verdict is not None]
            if len(ended) < len(verdicts):
                return
            curves = [self._curve(job) for job in self._jobs[index]]
            self._outcomes.append(Outcome.of(self._points[index], ended, curves))


class FinalistsPlan:
    """The best points of a finished search, run again on more validation seeds; then the winner is named."""

    phase: SweepPhase = "finalists"

    def __init__(self, sweep: SweepSpec, search: SearchPlan, ledger: Ledger) -> None:
        assert sweep.search is not None
        self.entry = search.entry
        self._sweep = sweep
        self._config = sweep.search.finalists
        self._search = search
        self._ledger = ledger
        self._named = False
        self._hopeless = False

    @property
    def total(self) -> int:
        return len(self.jobs())

    @property
    def failure(self) -> str:
        """Why no winner can be named, though nothing is left to run; empty otherwise."""
        if not self._hopeless:
            return ""
        if not self.jobs():
            return no_suggestion_finished(_asked(self._ledger, self._search.jobs()))
        return no_finalist_finished(_asked(self._ledger, self.jobs()))

    @cached_property
    def _finalists(self) -> Mapping[int, tuple[Job, ...]]:
        """Suggestion index -> its trials on the finalists' seeds, the best first; equal points stand once."""
        names = [self._search.specs(index)[0].hash for index in range(len(self._search.outcomes))]
        best = ranked(self._search.outcomes, names)
        top, seeds = (self._config.top, self._config.runs) if self._config else (1, ())
        points = {index: self._search.outcomes[index].point for index in best[:top]}
        return {
            index: tuple(Job(self._sweep.trial(self.entry, point, seed, self.phase), {}) for seed in seeds)
            for index, point in points.items()
        }

    def jobs(self) -> Sequence[Job]:
        return [job for jobs in self._finalists.values() for job in jobs]

    def wanted(self) -> Sequence[Job] | None:
        missing = _open(self._ledger, self.jobs())
        if missing:
            return missing
        if not self._named:
            self._hopeless = (
                read_winner(self._ledger.results.read_json, self._sweep, self.entry) is None and not self._name_winner()
            )
        self._named = True
        return None

    def _name_winner(self) -> bool:
        """Write down the best finalist by the mean over all its validation seeds; ties go to the lowest index.

        Returns:
            Whether there is one: none, where every finalist failed.
        """
        scores = {}
        for index, jobs in self._finalists.items():
            search = [Job(spec, {}) for spec in self._search.specs(index)]
            value = score([verdict_of(self._ledger, job) for job in (*search, *jobs)])
            if value is not None:
                scores[index] = value
        if scores:
            index = min(scores, key=lambda index: (-scores[index], index))
            write_winner(
                self._ledger.results,
                self._sweep,
                self.entry,
                {
                    "point": dict(self._search.outcomes[index].point),
                    "index": index,
                    "value": scores[index],
                    "finalists": {str(i): score for i, score in scores.items()},
                    "selected_by": "validation",
                },
            )
        return bool(scores)


class FinalPlan:
    """The winner over fresh seeds, scored on test data. An entry without a space has one point, and no search.

    Trials that choose as they go have no winner.
    """

    phase: SweepPhase = "final"

    def __init__(self, sweep: SweepSpec, entry: Entry, ledger: Ledger) -> None:
        assert sweep.final is not None
        self.entry = entry
        self._ledger = ledger
        if chooses(sweep, entry):
            self._jobs = [Job(spec, {}) for spec in choosing_trials(sweep, entry, ledger)]
            return
        winner = read_winner(ledger.results.read_json, sweep, entry)
        seeds = sweep.final.runs if winner is not None else ()
        point = winner["point"] if winner is not None else {}
        self._jobs = [Job(sweep.trial(entry, point, seed, self.phase), {}) for seed in seeds]

    @property
    def total(self) -> int:
        return len(self._jobs)

    def jobs(self) -> Sequence[Job]:
        return self._jobs

    def wanted(self) -> Sequence[Job] | None:
        return _open(self._ledger, self._jobs) or None


class EntryPlan:
    """All that one entry has to run: its search, its finalists, its winner over the final seeds.

    Each phase is planned when the one before has ended, whatever other entries do, so that no slot waits for them.

    Attributes:
        ended_before: trials of the phases before the present one.
        failed_before: those of them that failed.
    """

    def __init__(self, sweep: SweepSpec, entry: Entry, ledger: Ledger, broken: LimitCheck = _nothing) -> None:
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
            failed = sum(asked.failed for asked in _asked(self._ledger, self.jobs()))
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


def verdict_of(ledger: Ledger, job: Job) -> Verdict | None:
    """How a job ended under its cut-offs; None while it has to run."""
    if job.refused:
        return Verdict("failed", job.refused)
    record = ledger.record(job.spec)
    return None if record is None else record.under(job.cutoffs)


def _open(ledger: Ledger, jobs: Sequence[Job]) -> list[Job]:
    return [job for job in jobs if verdict_of(ledger, job) is None]


def _asked(ledger: Ledger, jobs: Sequence[Job]) -> list[Asked]:
    """The jobs with their verdicts; those that share a trial stand once."""
    distinct = {job.spec.hash: job for job in jobs}
    return [Asked(job.spec, verdict=verdict_of(ledger, job)) for job in distinct.values()]
