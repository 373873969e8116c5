"""Looks at a running sweep: what each entry has done, and how long the rest may take."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from raycl.errors import StoreError
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import SweepPhase, stream_config
from raycl.streams.source import stream_outline
from raycl.sweep.dispatch import Dispatcher
from raycl.sweep.job import Job, Plan, verdict_of
from raycl.sweep.ledger import Ledger
from raycl.sweep.plan import EntryPlan

log = logging.getLogger(__name__)

EVERY = 0.25
"""Seconds between two looks, at the least."""


@dataclass(frozen=True)
class EntryStatus:
    """Where one strategy of one variant stands in its present phase.

    Attributes:
        key: ``"variant/alias"``, or ``"alias"`` where the sweep has no variants.
        done: trials that finished with a value; pruned and failed ones are counted on their own.
        total: trials that the phase will have run in the end.
        waiting: trials that are handed out and have no slot yet; ``running`` are those that learn.
        tasks: for each running trial, the number of tasks it has learned so far.
        failed_before: trials of the phases before this one that failed.
        failure: why the method has ended without its result, or with a part of it.
        best: the best value so far, in [0, 1]: mean validation accuracy, or test accuracy in the final phase.
        barred: why the method cannot run here; it has no trials then.
    """

    key: str
    phase: SweepPhase
    num_tasks: int
    total: int = 0
    done: int = 0
    running: int = 0
    waiting: int = 0
    pruned: int = 0
    failed: int = 0
    tasks: tuple[int, ...] = ()
    best: float | None = None
    barred: str | None = None
    failed_before: int = 0
    failure: str = ""

    @property
    def ended(self) -> int:
        """Trials that will not run again."""
        return self.done + self.pruned + self.failed


@dataclass(frozen=True)
class SweepStatus:
    """One look at a running sweep.

    Attributes:
        entries: in the order of the sweep file.
        elapsed: seconds since this run began.
        remaining: estimated seconds to the end of the sweep; None while nothing can be told.
        doing: what comes before the first trial, such as ``starting Ray``; empty once trials run.
    """

    entries: tuple[EntryStatus, ...]
    elapsed: float = 0.0
    remaining: float | None = None
    doing: str = ""


@dataclass
class Tally:
    """What the present phase of a plan has come to. A job that has ended is counted once, and not at every look.

    Attributes:
        jobs: of the phase that are known by now.
        trials: names of theirs.
        ended: jobs by the status of their verdict.
        best: the best value of a finished one.
    """

    phase: SweepPhase | None = None
    jobs: int = 0
    trials: set[str] = field(default_factory=set)
    ended: Counter[str] = field(default_factory=Counter)
    best: float | None = None
    _open: list[Job] = field(default_factory=list)

    def after(self, plan: Plan, ledger: Ledger) -> Tally:
        """The tally as it stands now."""
        jobs = plan.jobs()
        before = self if self.phase == plan.phase else Tally(plan.phase)
        fresh = jobs[before.jobs :]
        looked = [(job, verdict_of(ledger, job)) for job in (*before._open, *fresh)]
        verdicts = [verdict for _, verdict in looked if verdict]
        values = [verdict.value for verdict in verdicts if verdict.value is not None and verdict.status == "finished"]
        values += [] if before.best is None else [before.best]
        return Tally(
            plan.phase,
            len(jobs),
            before.trials | {job.spec.hash for job in fresh} if fresh else before.trials,
            before.ended + Counter(verdict.status for verdict in verdicts),
            max(values, default=None),
            [job for job, verdict in looked if verdict is None],
        )


@dataclass
class Watch:
    """Gives looks to the display, not more often than it can show them.

    Args:
        shown: takes each look.
    """

    sweep: SweepSpec
    ledger: Ledger
    plans: Sequence[EntryPlan]
    shown: Callable[[SweepStatus], None]
    began: float = field(default_factory=time.monotonic)
    _doing: str = ""
    _last: float = float("-inf")
    _started: float = 0.0
    _ended_before: int = 0
    _tasks: dict[str, int] = field(default_factory=dict)
    _tallies: dict[str, Tally] = field(default_factory=dict)

    def prepare(self, doing: str) -> None:
        """Show what is done before the first trial."""
        self._doing = doing
        self.show(None, {})

    def start(self) -> None:
        """Trials begin to run: what has ended by now took no time of this run."""
        self._started = time.monotonic()
        self._ended_before = self._ended()

    def look(self, dispatcher: Dispatcher, tasks: Mapping[str, int]) -> None:
        """Show where the sweep stands, unless it was shown a moment ago."""
        now = time.monotonic()
        if now - self._last < EVERY:
            return
        self._last = now
        self.show(dispatcher, tasks)

    def show(self, dispatcher: Dispatcher | None, tasks: Mapping[str, int]) -> None:
        """Show where the sweep stands; a storage that is away for a moment leaves the last look standing."""
        try:
            self.shown(self._status(dispatcher, tasks))
        except StoreError as error:
            log.warning("the results storage does not answer: %s", error)

    def _status(self, dispatcher: Dispatcher | None, tasks: Mapping[str, int]) -> SweepStatus:
        by_key = {plan.entry.key: plan for plan in self.plans}
        entries = tuple(
            self._entry(by_key[entry.key], dispatcher, tasks)
            if entry.key in by_key
            else EntryStatus(entry.key, "final", 0, barred=entry.barred)
            for entry in self.sweep.entries
        )
        elapsed = time.monotonic() - self.began
        if any(entry.running for entry in entries):
            self._doing = ""  # it has come to an end, also when none runs any more
        return SweepStatus(entries, elapsed, self._remaining(), self._doing)

    def _entry(self, plan: EntryPlan, dispatcher: Dispatcher | None, tasks: Mapping[str, int]) -> EntryStatus:
        tally = self._tally(plan)
        running = dispatcher.running if dispatcher else {}
        known = dispatcher.statuses() if dispatcher and dispatcher.statuses else {}
        handed = [trial_id for trial_id, job in running.items() if job.spec.hash in tally.trials]
        ids = [trial_id for trial_id in handed if known.get(trial_id) != "PENDING"]
        return EntryStatus(
            key=plan.entry.key,
            phase=plan.phase,
            num_tasks=self._num_tasks(plan),
            total=plan.total,
            done=tally.ended["finished"],
            running=len(ids),
            waiting=len(handed) - len(ids),
            pruned=tally.ended["pruned"],
            failed=tally.ended["failed"],
            tasks=tuple(tasks.get(trial_id, 0) for trial_id in ids),
            best=tally.best,
            failed_before=plan.failed_before,
            failure=plan.failure,
        )

    def _tally(self, plan: EntryPlan) -> Tally:
        key = plan.entry.key
        self._tallies[key] = self._tallies.get(key, Tally()).after(plan, self.ledger)
        return self._tallies[key]

    def _num_tasks(self, plan: EntryPlan) -> int:
        """Tasks of the plan's stream, as far as they are known without its data."""
        key, jobs = plan.entry.key, plan.jobs()
        if key not in self._tasks and jobs:
            stream = stream_config(self.sweep.catalog, jobs[0].spec.stream)
            outline = stream_outline(self.sweep.catalog, stream)
            self._tasks[key] = outline.num_tasks if outline else stream.tasks
        return self._tasks.get(key, 0)

    def _ended(self) -> int:
        """Trials that have ended, over all phases."""
        return sum(self._tally(plan).ended.total() + plan.ended_before for plan in self.plans)

    def _remaining(self) -> float | None:
        """Seconds to the end of the sweep, if the trials to come are like those of this run so far."""
        ended = self._ended()
        done = ended - self._ended_before
        if done <= 0:
            return None
        left = sum(self.sweep.runs(plan.entry).total for plan in self.plans) - ended
        return max(0, left) * (time.monotonic() - self._started) / done
