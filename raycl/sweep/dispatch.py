"""Hands the trials that plans want to Tune, one by one, and keeps watch over those that run. Knows nothing of Ray."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycl.errors import StoreError
from raycl.sweep.job import Job, Plan, verdict_of
from raycl.sweep.ledger import Ledger

log = logging.getLogger(__name__)

MOST_STALLS = 5
"""Attempts of a trial without a new row, after which the sweep stops as incomplete."""
LOST_AFTER = 3
"""Looks in a row at which Tune does not run a trial that it never said had ended."""
STORAGE_AWAY = 60.0
"""Seconds without an answer of the results storage, after which the sweep stops as incomplete."""
ENDED = frozenset({"TERMINATED", "ERROR"})


class NothingLeft:
    """Said once no plan wants anything more."""


@dataclass
class Dispatcher:
    """The trials of a sweep, over all entries.

    Strategies take turns, so that slots stay busy while one waits for its generation. A trial that two plans want runs
    once. A trial that ends without a verdict lost its infrastructure: it is handed out again, after a pause that grows,
    as long as it leaves new rows at all.

    Args:
        slots: trials that may run at the same time.
        statuses: Tune's word on every trial that it knows, by id.
    """

    plans: Sequence[Plan]
    ledger: Ledger
    slots: int
    patience: int = MOST_STALLS
    pause: float = 0.5
    clock: Callable[[], float] = time.monotonic
    statuses: Callable[[], Mapping[str, str]] | None = None
    running: dict[str, Job] = field(default_factory=dict)
    halted: str = ""
    _launched: dict[str, tuple[Job, int]] = field(default_factory=dict)
    _turns: dict[str, int] = field(default_factory=dict)
    _unseen: dict[str, int] = field(default_factory=dict)
    _stalls: dict[str, int] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)
    _reasons: dict[str, str] = field(default_factory=dict)
    _away_since: float | None = None

    def suggest(self, trial_id: str) -> Job | type[NothingLeft] | None:
        """The next trial; None while there is nothing to start."""
        if self.halted:
            return NothingLeft
        self._look_for_lost()
        if len(self.running) >= self.slots:
            return None
        found = self.wanted()
        if found is None:
            return NothingLeft
        busy = {job.spec.hash for job in self.running.values()}
        now = self.clock()
        free = [
            (self._turns.get(plan.entry.key, 0), order, plan, job)
            for order, (plan, job) in enumerate(found)
            if job.spec.hash not in busy and self._not_before.get(job.spec.hash, now) <= now
        ]
        if not free:
            return None
        _, _, plan, job = min(free, key=lambda item: item[:2])
        if self.ledger.ended_meanwhile(job.spec):
            return None  # a worker that was given up has finished it all the same
        self._launch(trial_id, plan, job)
        return job

    def suggest_patiently(self, trial_id: str) -> Job | type[NothingLeft] | None:
        """:meth:`suggest`, while the results storage may be away for a moment."""
        try:
            found = self.suggest(trial_id)
        except StoreError as error:
            log.warning("the results storage does not answer: %s", error)
            self._away_since = self._away_since or self.clock()
            if self.clock() - self._away_since > STORAGE_AWAY:
                self.halted = f"the results storage was away for {STORAGE_AWAY:.0f} s: {error}"
            return None
        self._away_since = None
        return found

    def wanted(self) -> list[tuple[Plan, Job]] | None:
        """What may run now or runs already, over all plans; None once nothing is left to run."""
        asked = [(plan, plan.wanted()) for plan in self.plans]
        if all(jobs is None for _, jobs in asked):
            return None
        return [(plan, job) for plan, jobs in asked for job in jobs or ()]

    def completed(self, trial_id: str) -> None:
        """A trial has ended, well or not: what it left in the store decides."""
        job = self.running.pop(trial_id, None)
        self._unseen.pop(trial_id, None)
        if job is None:
            return
        self.ledger.refresh(job.spec)
        try:
            if verdict_of(self.ledger, job) is None:
                self._stalled(trial_id, job)
        except StoreError as error:  # it is looked up again as long as its plan wants it
            log.warning("the results storage does not answer: %s", error)

    def prune(self, trial_id: str) -> None:
        """ASHA ends a trial: its verdict is written down before Tune lets its worker go."""
        if trial_id in self.running:
            self.ledger.prune(self.running[trial_id].spec)

    def explain(self, trial_id: str, reason: str) -> None:
        """Why a trial was lost, for the message when the sweep stops."""
        if trial_id in self._launched:
            job, _ = self._launched[trial_id]
            self._reasons[job.spec.hash] = reason
            log.info("trial %s of %s was lost: %s", job.spec.hash, job.spec.alias, reason)

    def why_halted(self) -> str:
        """Why the sweep was stopped before its end; empty while it was not."""
        reasons = [self._reasons.get(trial, "") for trial, stalls in self._stalls.items() if stalls >= self.patience]
        return "; ".join([self.halted, *filter(None, reasons)]) if self.halted else ""

    def _launch(self, trial_id: str, plan: Plan, job: Job) -> None:
        learned = self.ledger.tasks_learned(job.spec)
        self.ledger.reopen(job.spec)
        self._turns[plan.entry.key] = self._turns.get(plan.entry.key, 0) + 1
        self._launched[trial_id] = (job, learned)
        self.running[trial_id] = job

    def _stalled(self, trial_id: str, job: Job) -> None:
        """Count attempts without a new row; a row starts the count anew."""
        name = job.spec.hash
        advanced = self.ledger.tasks_learned(job.spec) > self._launched[trial_id][1]
        self._stalls[name] = 0 if advanced else self._stalls.get(name, 0) + 1
        self._not_before[name] = self.clock() + self.pause * (2 ** self._stalls[name] - 1)
        if self._stalls[name] >= self.patience:
            self.halted = (
                f"trial {name} of {job.spec.alias} (seed {job.spec.seed_label}) was lost {self.patience} times without "
                "finishing a task"
            )

    def _look_for_lost(self) -> None:
        """Give up trials that nobody runs, so that no generation waits for them."""
        if self.statuses is None:
            return
        known = self.statuses()
        for trial_id in list(self.running):
            gone = known.get(trial_id, "ERROR") in ENDED
            self._unseen[trial_id] = self._unseen.get(trial_id, 0) + 1 if gone else 0
            if self._unseen[trial_id] >= LOST_AFTER:
                log.warning("Tune lost sight of trial %s; it is looked up in the results", trial_id)
                self.completed(trial_id)


def configuration(job: Job, constants: Mapping[str, Any]) -> dict[str, Any]:
    """What travels to the worker: plain data, no references."""
    limits = {str(task): value for task, value in job.cutoffs.items()}
    return {**constants, "spec": job.spec.dumps(), "cutoffs": limits, "bracket": job.bracket}
