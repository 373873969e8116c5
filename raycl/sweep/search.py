"""Suggestions in generations: what a sweep tries of one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raycl.results.decisions import suggestion_path
from raycl.results.outcomes import Outcome
from raycl.spec.points import Point
from raycl.spec.sweep import Entry, SweepSpec
from raycl.spec.sweep_options import SearchConfig
from raycl.spec.trial import SweepPhase, TrialSpec
from raycl.sweep.job import Job, LimitCheck, nothing_broken, open_jobs, verdict_of
from raycl.sweep.ledger import Records
from raycl.sweep.suggestions import Suggester, cutoffs


class SearchPlan:
    """Suggestions in generations.

    Suggestion i sees exactly the results of the earlier generations and the points of its own generation that come
    before it; its sampler is seeded by (search seed, entry, i), and it is written down before its trials start. The
    first ``startup`` suggestions see nothing.
    """

    phase: SweepPhase = "search"

    def __init__(self, sweep: SweepSpec, entry: Entry, ledger: Records, broken: LimitCheck = nothing_broken) -> None:
        assert sweep.search is not None
        self.entry = entry
        self._broken = broken
        self._refused: list[str] = []
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
        made = len(self._jobs) - len(self._refused)
        left = 0 if self._all_made else self._sweep.suggestions(self.entry)
        return max(left, made) * len(self._search.runs)

    def jobs(self) -> Sequence[Job]:
        return [job for jobs in self._jobs for job in jobs if not job.refused]

    @property
    def refused(self) -> Sequence[str]:
        """Why the suggestions that are not run break a limit."""
        return self._refused

    def wanted(self) -> Sequence[Job] | None:
        self._settle()
        while not self._complete and len(self._outcomes) >= self._seen(len(self._jobs)):
            self._add(len(self._jobs))
            self._settle()
        if self._complete and len(self._outcomes) == len(self._jobs):
            return None
        return open_jobs(self._ledger, [job for jobs in self._jobs[len(self._outcomes) :] for job in jobs])

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
        if not self._all_made and self._sweep.tried(self.entry, self._points, len(self._refused)):
            more = len(self._points) - len(self._refused) < self._search.trials
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
        self._refused += [refused] if refused else []
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
            **self._suggester.record(index, drawn),
            **({"refused": refused} if (refused := self._broken(drawn.point)) else {}),
            "cutoffs": {str(task): value for task, value in limits.items()},
            "seen": len(seen),
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

    def _costs(self, job: Job) -> Mapping[str, float]:
        record = None if job.refused else self._ledger.record(job.spec)
        return record.costs if record else {}

    # -- results -----------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Take in the outcomes of ended suggestions, in their order."""
        while len(self._outcomes) < len(self._jobs):
            index = len(self._outcomes)
            verdicts = [verdict_of(self._ledger, job) for job in self._jobs[index]]
            ended = [verdict for verdict in verdicts if verdict is not None]
            if len(ended) < len(verdicts):
                return
            curves, costs = zip(*((self._curve(job), self._costs(job)) for job in self._jobs[index]), strict=True)
            self._outcomes.append(Outcome.of(self._points[index], ended, curves, costs))


def blind_suggestions(
    suggester: Suggester, entry: Entry, ledger: Records, count: int, broken: LimitCheck = nothing_broken
) -> Sequence[Mapping[str, Any]]:
    """Suggestions that see no results, all at once, as they are written down; those that are not are drawn."""
    found: list[Mapping[str, Any]] = []
    for index in range(count):
        path = suggestion_path(entry, index)
        stored = ledger.results.read_json(path)
        if stored is None:
            drawn = suggester.draw(index, (), [earlier["point"] for earlier in found])
            told = suggester.record(index, drawn) | {"cutoffs": {}, "seen": 0}
            told |= {"refused": reason} if (reason := broken(drawn.point)) else {}
            stored = ledger.results.write_json_once(path, told)
        found.append(stored)
    return found
