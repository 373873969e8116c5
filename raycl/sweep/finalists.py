"""The best points of a search, run again on more validation seeds, and the winner that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from raycl.results.decisions import read_winner, write_winner
from raycl.results.objectives import finalists, front
from raycl.results.outcomes import score
from raycl.results.standing import no_finalist_finished, no_point_fits, no_suggestion_finished
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import SweepPhase
from raycl.sweep.job import Job, asked_of, open_jobs, verdict_of
from raycl.sweep.ledger import Ledger
from raycl.sweep.search import SearchPlan


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
        if not self._search.jobs():
            return no_point_fits(self._search.refused)
        if not self.jobs():
            return no_suggestion_finished(asked_of(self._ledger, self._search.jobs()))
        return no_finalist_finished(asked_of(self._ledger, self.jobs()))

    @cached_property
    def _finalists(self) -> Mapping[int, tuple[Job, ...]]:
        """Suggestion index -> its trials on the finalists' seeds, the best first; equal points stand once."""
        names = [self._search.specs(index)[0].hash for index in range(len(self._search.outcomes))]
        assert self._sweep.search is not None
        best = finalists(self._sweep.search, self._search.outcomes, names)
        seeds = self._config.runs if self._config else ()
        points = {index: self._search.outcomes[index].point for index in best}
        return {
            index: tuple(Job(self._sweep.trial(self.entry, point, seed, self.phase), {}) for seed in seeds)
            for index, point in points.items()
        }

    def jobs(self) -> Sequence[Job]:
        return [job for jobs in self._finalists.values() for job in jobs]

    def wanted(self) -> Sequence[Job] | None:
        missing = open_jobs(self._ledger, self.jobs())
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
            index, *_ = free = self._free(scores)
            write_winner(
                self._ledger.results,
                self._sweep,
                self.entry,
                {
                    "point": dict(self._search.outcomes[index].point),
                    "index": index,
                    "value": scores[index],
                    "finalists": {str(i): score for i, score in scores.items()},
                    **({"pareto": [self._told(index, scores[index]) for index in free]} if self._costs else {}),
                    "selected_by": "validation",
                },
            )
        return bool(scores)

    @property
    def _costs(self) -> tuple[str, ...]:
        return self._sweep.search.costs if self._sweep.search else ()

    def _free(self, scores: Mapping[int, float]) -> list[int]:
        """The best finalist; of several objectives all that no other one dominates, the most accurate first."""
        if not self._costs:
            return [min(scores, key=lambda index: (-scores[index], index))]
        rated = {index: replace(self._search.outcomes[index], value=value) for index, value in scores.items()}
        return front(rated, self._costs)

    def _told(self, index: int, value: float) -> dict[str, Any]:
        outcome = self._search.outcomes[index]
        costs = {name: outcome.costs[name] for name in self._costs}
        return {"index": index, "point": dict(outcome.point), "value": value, **costs}
