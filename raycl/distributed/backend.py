"""Runs the trials of a sweep on Ray: under one Tuner, on a cluster of this machine's own or on one that is there."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from raycl.addresses import shown
from raycl.distributed import address, cluster
from raycl.distributed.asha import EntryASHA
from raycl.distributed.carried import packed
from raycl.distributed.environment import environment, for_ray, quiet, uncounted
from raycl.distributed.searcher import Drive, Pruned, SweepCallback, SweepSearcher, SweepStopper, registered
from raycl.distributed.streams import StreamShards
from raycl.distributed.trainable import TrialRunner
from raycl.spec.sweep import SweepSpec
from raycl.sweep.backend import Errand, RunOptions, Tick
from raycl.sweep.data import Read
from raycl.sweep.dispatch import Dispatcher
from raycl.sweep.signals import Interruption


class OnRay:
    """The backend of parallel sweeps."""

    def refuse(self, sweep: SweepSpec, options: RunOptions) -> None:
        """Ray can do all that a sweep file may ask for."""

    def opening(self, options: RunOptions) -> str:
        if ray.is_initialized():
            return ""
        target = address.target(options.address)
        return "starting Ray" if target is None else f"joining the Ray cluster at {shown(target)}"

    @contextmanager
    def open(
        self, sweep: SweepSpec, options: RunOptions, data_root: str | None, interruption: Interruption
    ) -> Iterator[_RayEngine]:
        """Connect, and start the stream actors: they belong to the driver, and outlive every trial."""
        interruption.at_once = True
        with cluster.connected(sweep.name, options.address) as connection:
            interruption.at_once = False
            interruption.catch()  # Ray has put its own handler in place, which ends the process
            nodes = [node for node in ray.nodes() if node["Alive"]]
            root = None if data_root is None else Path(data_root)
            shards = StreamShards(sweep.catalog, max(1, len(nodes)), root, name=f"{sweep.name}-{uuid.uuid4().hex[:8]}")
            try:
                yield _RayEngine(sweep, data_root, connection, shards, interruption)
            finally:
                shards.close()


@dataclass
class _RayEngine:
    sweep: SweepSpec
    data_root: str | None
    connection: cluster.Connection
    shards: StreamShards
    interruption: Interruption

    def check(self, reads: Sequence[Read]) -> None:
        self.shards.check(reads)

    def slots(self, sweep: SweepSpec, wanted: int, limit: int | None) -> int:
        return cluster.slots(sweep.resources, self.connection.own, wanted, limit)

    def drive(self, dispatcher: Dispatcher, errand: Errand, tick: Tick) -> None:
        constants = {
            "results": errand.results.uri,
            "metric": errand.metric,
            "streams": self.shards.names.to_dict(),
            "data_root": self.data_root,
            # the data are with the stream actors
            "registered": packed(self.sweep.catalog, "strategies", "streams", "models"),
        }
        pulse = cluster.Pulse()

        def ticked(tasks: Mapping[str, int] | None) -> None:
            if self.interruption.signal and not self.connection.ours:  # actors outlive this call: Tune has to end them
                dispatcher.halted = dispatcher.halted or f"stopped by {self.interruption.signal}"
            tick(tasks)
            if self.connection.own:
                pulse.check()

        _fit(Drive(dispatcher, constants, ticked), self.sweep)


def _fit(drive: Drive, sweep: SweepSpec) -> None:
    """Run the trials under one Tuner. What Tune itself writes goes into a temporary folder."""
    key, resources, pruner = uuid.uuid4().hex, sweep.resources, sweep.pruner
    asha = None
    if pruner is not None and pruner.scheduler == "asha":
        asha = EntryASHA(pruner.grace_tasks, pruner.reduction_factor, Pruned(key))
    slots = {"TUNE_MAX_PENDING_TRIALS_PG": str(drive.dispatcher.slots)}
    bundle = {"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus > 0 else {})}
    with (
        quiet(),
        uncounted(),
        environment(for_ray(slots)),
        tempfile.TemporaryDirectory(prefix="raycl-", ignore_cleanup_errors=True) as scratch,
        registered(key, drive),
    ):
        tune.Tuner(
            tune.with_resources(TrialRunner, tune.PlacementGroupFactory([bundle])),
            tune_config=tune.TuneConfig(
                search_alg=SweepSearcher(key),
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
                stop=SweepStopper(key),
                callbacks=[SweepCallback(key)],
            ),
        ).fit()


def _name(trial: Any) -> str:
    return f"trial-{trial.trial_id}"
