"""Runs the trials of a sweep in this process, one after another: for notebooks, debuggers, tests, small questions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

from raycl.errors import Problem, SpecError
from raycl.spec.setting import Registries
from raycl.spec.sweep import SweepSpec
from raycl.sweep.backend import Errand, RunOptions, Tick
from raycl.sweep.data import Read, Sources, StreamKey, check_reads
from raycl.sweep.dispatch import Dispatcher
from raycl.sweep.job import Job
from raycl.sweep.signals import Interruption
from raycl.trial.device import accelerator, threads
from raycl.trial.session import INFRASTRUCTURE, TrialSession

PAUSE = 0.05
"""Seconds between two questions for a trial, while none may start."""


class Here:
    """The backend without a cluster; it is its own engine."""

    def refuse(self, sweep: SweepSpec, options: RunOptions) -> None:
        problems = []
        if sweep.pruner is not None and sweep.pruner.scheduler == "asha":
            rule = "compares trials that run at the same time, and backend `here` runs one; take backend `ray`"
            problems.append(Problem("pruner.scheduler", f"{rule}, or scheduler: generations", "asha"))
        if options.max_concurrent not in (None, 1):
            rule = "must be 1 on backend `here`, which runs one trial after another; take backend `ray`"
            problems.append(Problem("max_concurrent", rule, str(options.max_concurrent)))
        if problems:
            raise SpecError(problems)

    def opening(self, options: RunOptions) -> str:
        return ""

    @contextmanager
    def open(
        self, sweep: SweepSpec, options: RunOptions, data_root: str | None, interruption: Interruption
    ) -> Iterator[_HereEngine]:
        interruption.at_once = True  # what a task has learned since it began is all that is lost
        try:
            yield _HereEngine(sweep.catalog, data_root)
        finally:
            interruption.at_once = False


class _HereEngine:
    def __init__(self, catalog: Registries, data_root: str | None) -> None:
        self._catalog = catalog
        self._data_root = data_root
        self._sources = Sources(catalog, data_root)

    def check(self, reads: Sequence[Read]) -> None:
        check_reads(reads, self._sources.get)

    def slots(self, sweep: SweepSpec, wanted: int, limit: int | None) -> int:
        return 1

    def drive(self, dispatcher: Dispatcher, errand: Errand, tick: Tick) -> None:
        for number in count():
            tick({})
            found = dispatcher.suggest_patiently(str(number))
            if isinstance(found, Job):
                with threads(found.spec.resources.cpus):
                    self._run(str(number), found, dispatcher, errand, tick)
            elif found is not None:
                return
            else:
                time.sleep(PAUSE)

    def _run(self, name: str, job: Job, dispatcher: Dispatcher, errand: Errand, tick: Tick) -> None:
        """Run one trial to its end, to the end of the run, or to where its surroundings fail."""
        try:
            with closing(self._session(job, errand)) as session:
                while not dispatcher.halted:
                    progress = session.step()
                    tick({name: progress.task + 1})
                    if progress.verdict is not None:
                        break
        except INFRASTRUCTURE as error:
            dispatcher.explain(name, str(error))
        dispatcher.completed(name)

    def _session(self, job: Job, errand: Errand) -> TrialSession:
        spec = job.spec
        return TrialSession(
            self._sources.get(StreamKey.of(spec.stream, spec.run_seeds, spec.train_on)),
            errand.results.trial(spec),
            metric=errand.metric,
            cutoffs=job.cutoffs,
            catalog=self._catalog,
            device=accelerator(spec.resources.gpus),
            data_root=Path(self._data_root) if self._data_root else None,
        )
