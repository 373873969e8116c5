"""Looks at a running phase: what each entry has done, and how long the rest may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from raycl.distributed.dispatch import Dispatcher
from raycl.distributed.ledger import Ledger
from raycl.distributed.plan import Plan, verdict_of
from raycl.live import EntryStatus, SweepStatus
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import Phase
from raycl.streams.source import stream_outline

EVERY = 0.25
"""Seconds between two looks, at the least."""


@dataclass
class Watch:
    """Gives looks to the display, not more often than it can show them.

    Args:
        shown: takes each look.
    """

    sweep: SweepSpec
    ledger: Ledger
    shown: Callable[[SweepStatus], None]
    began: float = field(default_factory=time.monotonic)
    _last: float = float("-inf")
    _phase_began: float = 0.0
    _ended_before: int = 0
    _tasks: dict[str, int] = field(default_factory=dict)

    def start(self, dispatcher: Dispatcher) -> None:
        """A phase begins: what has ended by now took no time of this run."""
        self._phase_began = time.monotonic()
        self._ended_before = sum(self._ended(plan) for plan in dispatcher.plans)

    def look(self, dispatcher: Dispatcher, tasks: Mapping[str, int]) -> None:
        """Show where the phase stands, unless it was shown a moment ago."""
        now = time.monotonic()
        if now - self._last < EVERY:
            return
        self._last = now
        self.show(dispatcher.plans, dispatcher, tasks)

    def show(self, plans: Sequence[Plan], dispatcher: Dispatcher | None, tasks: Mapping[str, int]) -> None:
        """Show where the phase stands."""
        by_key = {plan.entry.key: plan for plan in plans}
        entries = tuple(
            self._entry(by_key[entry.key], dispatcher, tasks)
            if entry.key in by_key
            else EntryStatus(entry.key, plans[0].phase, 0, barred=entry.barred)
            for entry in self.sweep.entries
            if entry.key in by_key or entry.barred
        )
        elapsed = time.monotonic() - self.began
        self.shown(SweepStatus(plans[0].phase, entries, elapsed, self._remaining(plans)))

    def _entry(self, plan: Plan, dispatcher: Dispatcher | None, tasks: Mapping[str, int]) -> EntryStatus:
        own = {job.spec.hash for job in plan.jobs()}
        running = dispatcher.running if dispatcher else {}
        ids = [trial_id for trial_id, job in running.items() if job.spec.hash in own]
        verdicts = [verdict for verdict in (verdict_of(self.ledger, job) for job in plan.jobs()) if verdict]
        status = [verdict.status for verdict in verdicts]
        values = [verdict.value for verdict in verdicts if verdict.value is not None and verdict.status == "finished"]
        return EntryStatus(
            key=plan.entry.key,
            phase=plan.phase,
            num_tasks=self._num_tasks(plan),
            total=plan.total,
            done=status.count("finished"),
            running=len(ids),
            pruned=status.count("pruned"),
            failed=status.count("failed"),
            tasks=tuple(tasks.get(trial_id, 0) for trial_id in ids),
            best=max(values, default=None),
        )

    def _num_tasks(self, plan: Plan) -> int:
        """Tasks of the plan's stream, as far as they are known without its data."""
        key, jobs = plan.entry.key, plan.jobs()
        if key not in self._tasks and jobs:
            stream = jobs[0].spec.stream
            outline = stream_outline(stream)
            self._tasks[key] = len(outline.sizes) if outline else int(stream.get("tasks", 0))
        return self._tasks.get(key, 0)

    def _ended(self, plan: Plan) -> int:
        return sum(verdict_of(self.ledger, job) is not None for job in plan.jobs())

    def _remaining(self, plans: Sequence[Plan]) -> float | None:
        """Seconds to the end of the sweep, if the trials to come are like those of this phase."""
        ended = sum(self._ended(plan) for plan in plans)
        done = ended - self._ended_before
        if done <= 0:
            return None
        left = sum(plan.total for plan in plans) - ended + self._later(plans[0].phase)
        return left * (time.monotonic() - self._phase_began) / done

    def _later(self, phase: Phase) -> int:
        """Trials of the phases after this one, at most."""
        runs = [self.sweep.runs(entry) for entry in self.sweep.entries if not entry.barred]
        final = sum(run.final for run in runs)
        again = sum(run.finalists for run in runs)
        return {"search": again + final, "finalists": final, "final": 0}[phase]
