"""Runs a sweep: all that its results folder lacks, and nothing else. The folder is the truth, whatever runs the trials.

All phases share one engine: processes that have imported torch go on to the next phase, and a strategy's winner is
scored while other strategies still search.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa

import raycl
from raycl.addresses import absolute, default_data_root
from raycl.errors import RayclError
from raycl.results.growth import grow
from raycl.results.lease import Lease
from raycl.results.outcomes import Record
from raycl.results.reading import read_trials
from raycl.results.standing import Standing, standings
from raycl.results.store import ResultsFolder
from raycl.results.trackers.tracker import TRACKERS
from raycl.spec.fingerprint import commit
from raycl.spec.sweep import SweepSpec
from raycl.sweep import backend as backends
from raycl.sweep.backend import Engine, Errand, RunOptions
from raycl.sweep.beside import Beside
from raycl.sweep.changes import changed_code, forget
from raycl.sweep.data import reads, recorded_data
from raycl.sweep.dispatch import Dispatcher
from raycl.sweep.gathering import Gathering
from raycl.sweep.ledger import Ledger
from raycl.sweep.plan import EntryPlan
from raycl.sweep.reuse import Elsewhere
from raycl.sweep.signals import Interrupted, Interruption, interruptible
from raycl.sweep.status import SweepStatus, Watch
from raycl.sweep.table import TableEntryPlan
from raycl.trial.check import checked, over_limits
from raycl.trial.pretrained import pinned

CONTINUES = "nothing is lost: the same command goes on from the last stored task of each trial"
MANY = 100_000
"""Ended trials that may wait to be told of: an old folder has all of its at once."""
END_SECONDS = 60.0
"""Seconds for trackers and display once everything has run: MLflow's first touch of a new file alone takes 8."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """How a run of a sweep ended.

    Attributes:
        complete: nothing that the sweep asks for is left to run, whatever came of it.
        reason: why it is not complete, and how to go on.
        folder: the results.
        failed: of a complete sweep: methods that lack their result, or a part of it, each with its reason.
        notes: what whoever reads the results should know of them.
        report: the file of the report that was left; empty where there is none.
    """

    complete: bool
    reason: str
    folder: str
    failed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    report: str = ""


def run_sweep(
    sweep: SweepSpec,
    folder: str | Path,
    *,
    backend: str = "ray",
    options: RunOptions | None = None,
    trackers: Sequence[str] = ("optuna",),
    report: bool = False,
    on_status: Callable[[SweepStatus], None] = lambda status: None,
    on_record: Callable[[Record], None] = lambda record: None,
) -> Ending:
    """Run what a results folder still lacks of a sweep.

    Args:
        folder: a path, or a URI that pyarrow's file systems take.
        backend: a name of :data:`raycl.sweep.backend.BACKENDS`: ``here``, one trial after another in this process, or
            ``ray``. The table is the same, and what one began the other continues.
        trackers: names of :data:`raycl.results.trackers.tracker.TRACKERS` that mirror the results.
        report: leave a report in the folder once the sweep is complete, unless the sweep file says ``report: false``.
        on_status: shown where the sweep stands, at most four times a second.
        on_record: told of every trial that has ended, those of earlier runs included.

    Raises:
        SpecError: the sweep asks for what makes no sense, for what the backend cannot do, or for a network or a method
            that cannot be built.
        StoreError: the folder cannot be used, or is in use.
        DataError: a data set is missing, or a file of pretrained weights.
        InfrastructureError: the cluster cannot be reached or is too small for one trial.
    """
    options = options or RunOptions()
    runs_on = backends.backend(backend)
    runs_on.refuse(sweep, options)
    root = absolute(options.data_root, "RAYCL_DATA") if options.data_root else default_data_root()
    sweep = pinned(checked(sweep), None if root is None else Path(root))
    others = [ResultsFolder.open(absolute(given, "RAYCL_RESULTS")) for given in options.reuse]
    elsewhere = Elsewhere(others, sweep.catalog, sweep.search.costs if sweep.search else ())
    place = absolute(str(folder), "RAYCL_RESULTS")
    results = ResultsFolder.create(place, sweep.dumps(), sweep.hash, lambda held: _grow(held, sweep, options.force))
    mirrors = [TRACKERS.get(name)(results, sweep) for name in trackers]
    besides = [Beside(mirror.name, MANY, mirror.remedy) for mirror in mirrors]
    listener, writer = Beside("a listener", MANY), Beside("the data set", MANY)
    display = Beside("the display", length=10)  # looks that cannot be shown by now are out of date

    def recorded(record: Record) -> None:
        for mirror, beside in zip(mirrors, besides, strict=True):
            beside.offer(partial(mirror.add, record))
        listener.offer(lambda: on_record(record))
        writer.offer(gathering.trial_ended)

    def look(status: SweepStatus) -> None:
        display.offer(lambda: on_status(status))

    ledger = Ledger(results, sweep.metric, options.retry_failed, recorded)
    lease = results.lease(options.force)
    gathering = Gathering(results, lambda: not lease.lost.is_set())
    with ExitStack() as stack:
        stack.enter_context(lease)
        for beside in (*besides, listener, writer, display):
            stack.enter_context(beside)
        results.repair()
        trials = read_trials(results)
        changed = changed_code(trials, sweep)
        if options.rerun_changed and forget(changed, sweep, results):
            trials = read_trials(results)
        results.write_json_once(f"drivers/{time.time_ns()}.json", provenance())
        interruption = stack.enter_context(interruptible())
        able = [entry for entry in sweep.entries if not entry.barred]
        plan = EntryPlan if sweep.table is None else TableEntryPlan
        plans = [plan(sweep, entry, ledger, over_limits(sweep, entry)) for entry in able]
        watch = Watch(sweep, ledger, plans, look)
        known = [trials, *elsewhere.trials()]
        run = _Run(
            sweep, ledger, plans, known, elsewhere, options, watch, lease, interruption, runs_on.opening(options)
        )
        found: Sequence[Standing] = ()
        written = ""
        try:
            with ExitStack() as block:
                reason = run(lambda: block.enter_context(runs_on.open(sweep, options, root, interruption)))
            if not reason:
                found = standings(sweep, results, ledger.record)
                gathering.gather(logging.WARNING)
                if report and sweep.report and all(standing.ended for standing in found):
                    from raycl.results.report import leave_report  # late: it imports matplotlib

                    written = leave_report(results)
        except Interrupted as signal:
            reason = f"stopped by {signal}"
        except RayclError as error:
            if not run.began:
                raise
            reason = str(error)
        finally:
            writer.offer(gathering.gather)
            for mirror, beside in zip(mirrors, besides, strict=True):
                beside.offer(mirror.finish)
        if not reason:
            for beside in (*besides, listener, display):
                beside.patience = END_SECONDS
    notes = () if options.rerun_changed else tuple(map(str, changed))
    return _ending(reason, found, results.uri, notes, written)


def _grow(held: ResultsFolder, sweep: SweepSpec, force: bool) -> None:
    """Another driver's folder keeps the sweep file that it is driven by."""
    with held.lease(force):
        grow(held, sweep)


def _ending(reason: str, found: Sequence[Standing], folder: str, notes: tuple[str, ...], report: str) -> Ending:
    """How a run ended that was stopped for a ``reason``, or came to its end with these standings."""
    left = [standing.entry.key for standing in found if not standing.ended]
    if left:
        reason = f"trials of {', '.join(left)} are left"
    if reason:
        reason = reason if CONTINUES in reason.lower() else f"{reason}; {CONTINUES}"
    failed = tuple(f"{standing.entry.key}: {standing.failure}" for standing in found if standing.failure)
    return Ending(not reason, reason, folder, failed, notes, report)


def provenance() -> dict[str, str | float]:
    """Who drives a sweep, with which code."""
    versions = {"raycl": raycl.__version__, "ray": version("ray")}
    return {"began": time.time(), "host": socket.gethostname(), "commit": commit(), **versions}


@dataclass
class _Run:
    """One run of a sweep; its backend is opened only once there is something to run.

    Attributes:
        trials: that the folder's earlier runs have ended, and those of folders that are reused.
        elsewhere: asked for what is missing, once its data are known to be those of today.
        opening: what opening the backend is, in words.
    """

    sweep: SweepSpec
    ledger: Ledger
    plans: Sequence[EntryPlan]
    trials: Sequence[pa.Table]
    elsewhere: Elsewhere
    options: RunOptions
    watch: Watch
    lease: Lease
    interruption: Interruption
    opening: str
    began: bool = False

    def __call__(self, opened: Callable[[], Engine]) -> str:
        """Run the plans to their end. Returns why they stopped before; empty where they did not."""
        self.interruption.check()
        if Dispatcher(self.plans, self.ledger, slots=0).wanted() is None:
            self.watch.show(None, {})
            return ""
        self.watch.prepare(self.opening)
        engine = opened()
        self.watch.prepare("reading the data")
        known = recorded_data(self.trials, self.sweep.catalog)
        engine.check(reads(self.sweep, [plan.entry for plan in self.plans], known))
        self.ledger.ask(lambda spec: self.elsewhere.bring(spec, self.ledger.results))
        limit = self.options.max_concurrent or (self.sweep.search.max_concurrent if self.sweep.search else None)
        wanted = sum(self.sweep.runs(plan.entry).total for plan in self.plans)
        dispatcher = Dispatcher(self.plans, self.ledger, engine.slots(self.sweep, wanted, limit))
        if dispatcher.wanted() is None:  # all of it has been brought
            self.watch.show(None, {})
            return ""
        self.watch.prepare("starting the first trials")
        self.watch.start()
        self.began = True
        errand = Errand(self.ledger.results, self.ledger.metric)
        engine.drive(dispatcher, errand, lambda tasks: self._tick(dispatcher, tasks))
        self.watch.show(dispatcher, {})
        return dispatcher.why_halted()

    def _tick(self, dispatcher: Dispatcher, tasks: Mapping[str, int] | None) -> None:
        if not dispatcher.halted:
            self.interruption.check()
        if self.lease.lost.is_set():
            dispatcher.halted = "another driver has taken the results folder"
        if tasks is not None:
            try:
                self.watch.look(dispatcher, tasks)
            except Exception as error:  # a display that breaks must not end the sweep
                log.warning("the status cannot be shown: %s", error)
