"""Runs a sweep on Ray: all that its results folder lacks, under one Tuner. The folder is the truth.

One Tuner for all phases, and not one for each: processes that have imported torch go on to the next phase, and a
strategy's winner is scored while other strategies still search.
"""

from __future__ import annotations

import logging
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

import raycl
from raycl.distributed import cluster, searcher
from raycl.distributed.asha import EntryASHA
from raycl.distributed.beside import Beside
from raycl.distributed.dispatch import Dispatcher
from raycl.distributed.environment import environment, for_ray, quiet
from raycl.distributed.ledger import Ledger
from raycl.distributed.mirror import StudyMirror
from raycl.distributed.plan import EntryPlan
from raycl.distributed.signals import Interrupted, Interruption, interruptible
from raycl.distributed.status import Watch
from raycl.distributed.streams import Read, StreamKey, StreamShards
from raycl.distributed.trainable import TrialRunner
from raycl.dry_build import checked
from raycl.errors import RayclError
from raycl.fingerprint import commit
from raycl.live import SweepStatus
from raycl.pretrained import pinned
from raycl.results.changes import changed_code, data_key, forget, recorded_data
from raycl.results.lease import Lease
from raycl.results.outcomes import Record
from raycl.results.standing import Standing, standings
from raycl.results.store import Results
from raycl.spec.sweep import Entry, SweepSpec
from raycl.spec.trial import Phase

CONTINUES = "nothing is lost: the same command goes on from the last stored task of each trial"
MANY = 100_000
"""Ended trials that may wait to be told of: an old folder has all of its at once."""
PATIENCE = 60.0
"""Seconds for mirrors and display once everything has run."""
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
    """

    complete: bool
    reason: str
    folder: str
    failed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def run_sweep(
    sweep: SweepSpec,
    folder: str | Path,
    *,
    data_root: str | Path | None = None,
    force: bool = False,
    retry_failed: bool = False,
    rerun_changed: bool = False,
    address: str | None = None,
    max_concurrent: int | None = None,
    on_status: Callable[[SweepStatus], None] = lambda status: None,
    on_record: Callable[[Record], None] = lambda record: None,
) -> Ending:
    """Run what a results folder still lacks of a sweep, and nothing else.

    Args:
        folder: a path, or a URI that pyarrow's file systems take.
        force: take the folder even where another driver's heartbeat is fresh.
        retry_failed: run trials again whose method failed.
        rerun_changed: run trials again whose method's code has changed since they ended; else it is told.
        address: of a cluster to join; default: ``RAY_ADDRESS``, else one is started for this run.
        max_concurrent: trials at the same time; default: the sweep's, else what fits.
        on_status: shown where the sweep stands, at most four times a second.
        on_record: told of every trial that has ended, those of earlier runs included.

    Raises:
        SpecError: the sweep asks for what makes no sense, or for a network or a method that cannot be built.
        StoreError: the folder cannot be used, or is in use.
        DataError: a data set is missing, or a file of pretrained weights.
        InfrastructureError: the cluster cannot be reached or is too small for one trial.
    """
    root = None if data_root is None else cluster.absolute(str(data_root), "RAYCL_DATA")
    sweep = pinned(checked(sweep), None if root is None else Path(root))
    results = Results.create(cluster.absolute(str(folder), "RAYCL_RESULTS"), sweep.dumps(), sweep.hash)
    mirror = StudyMirror(sweep, results)
    studies, listener = Beside("the mirror for Optuna", MANY), Beside("a listener", MANY)
    display = Beside("the display", length=10)  # looks that cannot be shown by now are out of date

    def recorded(record: Record) -> None:
        studies.offer(lambda: mirror.add(record))
        listener.offer(lambda: on_record(record))

    def look(status: SweepStatus) -> None:
        display.offer(lambda: on_status(status))

    metric = sweep.search.metric if sweep.search else "average_accuracy"
    ledger = Ledger(results, metric, retry_failed, recorded)
    with ExitStack() as stack:
        lease = stack.enter_context(results.lease(force))
        for beside in (studies, listener, display):
            stack.enter_context(beside)
        results.repair()
        changed = changed_code(results, sweep)
        if rerun_changed:
            forget(changed, sweep, results)
        results.write_json_once(f"drivers/{time.time_ns()}.json", provenance())
        interruption = stack.enter_context(interruptible())
        plans = [EntryPlan(sweep, entry, ledger) for entry in sweep.entries if not entry.barred]
        watch = Watch(sweep, ledger, plans, look)
        run = _Run(sweep, ledger, plans, root, address, max_concurrent, watch, lease, interruption, stack)
        try:
            reason = run()
        except Interrupted as signal:
            reason = f"stopped by {signal}"
        except RayclError as error:
            if not run.began:
                raise
            reason = str(error)
        finally:
            studies.offer(mirror.finish)
        found = [] if reason else standings(sweep, results, ledger.record)
        if not reason:
            studies.patience = listener.patience = display.patience = PATIENCE
    notes = () if rerun_changed else tuple(map(str, changed))
    return _ending(reason, found, results.uri, notes)


def _ending(reason: str, found: Sequence[Standing], folder: str, notes: tuple[str, ...]) -> Ending:
    """How a run ended that was stopped for a ``reason``, or came to its end with these standings."""
    left = [standing.entry.key for standing in found if not standing.ended]
    if left:
        reason = f"trials of {', '.join(left)} are left"
    if reason:
        reason = reason if CONTINUES in reason.lower() else f"{reason}; {CONTINUES}"
    failed = tuple(f"{standing.entry.key}: {standing.failure}" for standing in found if standing.failure)
    return Ending(not reason, reason, folder, failed, notes)


def provenance() -> dict[str, str | float]:
    """Who drives a sweep, with which code."""
    versions = {"raycl": raycl.__version__, "ray": ray.__version__}
    return {"began": time.time(), "host": socket.gethostname(), "commit": commit(), **versions}


def reads(sweep: SweepSpec, entries: Sequence[Entry], known: Mapping[str, frozenset[str]]) -> list[Read]:
    """What the trials of some entries will read in all phases: each stream with each seed, and the split that scores.

    All of it is looked at before the first trial starts: what is missing for the final phase is not found after a
    whole search. Searched values stand in no stream, so the middle of each space names all of them.

    Args:
        known: of :func:`raycl.results.changes.recorded_data`.
    """
    search, final = sweep.search, sweep.final
    validating = (*search.seeds, *(search.finalists.seeds if search.finalists else ())) if search else ()
    phases: list[tuple[Phase, Sequence[int]]] = [("search", validating), ("final", final.seeds if final else ())]
    found: dict[Read, None] = {}
    for entry in entries:
        for phase, seeds in phases if entry.space else phases[1:]:
            for seed in seeds:
                spec = sweep.trial(entry, entry.middle, seed, phase)
                key = StreamKey.of(spec.stream, spec.seed, spec.train_on)
                found[Read(key, ("train", spec.score_on), known.get(data_key(spec.stream), frozenset()))] = None
    return list(found)


@dataclass
class _Run:
    """One run of a sweep; the cluster is touched only once there is something to run."""

    sweep: SweepSpec
    ledger: Ledger
    plans: Sequence[EntryPlan]
    data_root: str | None
    address: str | None
    max_concurrent: int | None
    watch: Watch
    lease: Lease
    interruption: Interruption
    stack: ExitStack
    began: bool = False

    def __call__(self) -> str:
        """Run the plans to their end. Returns why they stopped before; empty where they did not."""
        self.interruption.check()
        missing = Dispatcher(self.plans, self.ledger, slots=0).wanted()
        if missing is None:
            self.watch.show(None, {})
            return ""
        limit = self.max_concurrent or (self.sweep.search.max_concurrent if self.sweep.search else None)
        connection, shards = self._connect()
        known = recorded_data(self.ledger.results)
        shards.check(reads(self.sweep, [plan.entry for plan in self.plans], known))
        wanted = sum(self.sweep.runs(plan.entry).total for plan in self.plans)
        slots = cluster.slots(self.sweep.resources, connection.own, wanted, limit)
        dispatcher = Dispatcher(self.plans, self.ledger, slots)
        self.watch.start()
        self.began = True
        constants = {
            "results": self.ledger.results.uri,
            "metric": self.ledger.metric,
            "streams": shards.names.to_dict(),
            "data_root": self.data_root,
        }
        _fit(searcher.Drive(dispatcher, constants, self._tick(dispatcher, connection)), self.sweep)
        self.watch.show(dispatcher, {})
        return dispatcher.why_halted()

    def _connect(self) -> tuple[cluster.Connection, StreamShards]:
        """The connection, and the stream actors: they belong to the driver, and outlive every trial."""
        self.interruption.nothing_runs = True
        connection = self.stack.enter_context(cluster.connected(self.sweep.name, self.address))
        self.interruption.nothing_runs = False
        self.interruption.catch()  # Ray has put its own handler in place, which ends the process
        nodes = [node for node in ray.nodes() if node["Alive"]]
        root = None if self.data_root is None else Path(self.data_root)
        shards = StreamShards(max(1, len(nodes)), root, name=f"{self.sweep.name}-{uuid.uuid4().hex[:8]}")
        self.stack.callback(shards.close)
        return connection, shards

    def _tick(
        self, dispatcher: Dispatcher, connection: cluster.Connection
    ) -> Callable[[Mapping[str, int] | None], None]:
        pulse = cluster.Pulse()

        def tick(tasks: Mapping[str, int] | None) -> None:
            if self.interruption.signal and not connection.ours:  # actors would outlive this call: Tune has to end them
                dispatcher.halted = dispatcher.halted or f"stopped by {self.interruption.signal}"
            elif self.interruption.signal:
                self.interruption.check()
            if connection.own:
                pulse.check()
            if self.lease.lost.is_set():
                dispatcher.halted = "another driver has taken the results folder"
            if tasks is not None:
                try:
                    self.watch.look(dispatcher, tasks)
                except Exception as error:  # a display that breaks must not end the sweep
                    log.warning("the status cannot be shown: %s", error)

        return tick


def _fit(drive: searcher.Drive, sweep: SweepSpec) -> None:
    """Run the trials under one Tuner. What Tune itself writes goes into a temporary folder."""
    key, resources, pruner = uuid.uuid4().hex, sweep.resources, sweep.pruner
    asha = None
    if pruner is not None and pruner.scheduler == "asha":
        asha = EntryASHA(pruner.grace_tasks, pruner.reduction_factor, searcher.Pruned(key))
    slots = {"TUNE_MAX_PENDING_TRIALS_PG": str(drive.dispatcher.slots)}
    bundle = {"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus > 0 else {})}
    with (
        quiet(),
        environment(for_ray(slots)),
        tempfile.TemporaryDirectory(prefix="raycl-", ignore_cleanup_errors=True) as scratch,
        searcher.registered(key, drive),
    ):
        tune.Tuner(
            tune.with_resources(TrialRunner, tune.PlacementGroupFactory([bundle])),
            tune_config=tune.TuneConfig(
                search_alg=searcher.SweepSearcher(key),
                scheduler=asha,
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # ours are in the results folder
                failure_config=tune.FailureConfig(max_failures=0),  # the dispatcher retries: it tells losses apart
                stop=searcher.SweepStopper(key),
                callbacks=[searcher.SweepCallback(key)],
            ),
        ).fit()


def _name(trial: Any) -> str:
    return f"trial-{trial.trial_id}"
