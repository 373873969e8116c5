"""What Ray Tune runs on a worker: one step is one task, and a task is stored before it is reported."""

from __future__ import annotations

import socket
import traceback
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.exceptions import RayError

from raycl.distributed.replay import ShardedStorage
from raycl.distributed.streams import RemoteSource, ShardNames
from raycl.errors import InfrastructureError
from raycl.results.store import Results, TrialStore, Verdict
from raycl.session import (
    ASSERTED,
    INFRASTRUCTURE,
    Progress,
    TrialSession,
    lost_to_the_surroundings,
    says_nothing_of_the_method,
    traceback_of,
)
from raycl.spec.trial import TrialSpec
from raycl.warm_up import warm_up

LOST = (*INFRASTRUCTURE, RayError)
"""What says nothing about the method: the trial is lost, and runs again."""


class TrialRunner(tune.Trainable):  # type: ignore[misc]
    """Runs trials one after another in one process.

    The session is made in the first step, not in ``setup``, so that whatever goes wrong is sorted into failures of the
    method, which become verdicts, and of the infrastructure, which are raised and end the attempt.
    """

    def setup(self, config: dict[str, Any]) -> None:
        warm_up()
        self._job = config
        self._running: TrialSession | None = None
        self._replay: ShardedStorage | None = None
        self._broken = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Make ready for the next trial: replay actors of the last one are gone before it starts."""
        self.cleanup()
        self._job = new_config
        return True

    def step(self) -> dict[str, Any]:
        if self._broken:
            raise InfrastructureError("an earlier trial broke this process's device; a new process takes over")
        spec = TrialSpec.loads(self._job["spec"])
        store = Results.open(self._job["results"]).trial(spec)
        try:
            if self._running is None:
                self._running = self._open(spec, store)
            progress = self._running.step()
        except LOST:
            raise
        except Exception as error:  # whatever else a method raises is its own failure
            if says_nothing_of_the_method(error):
                raise lost_to_the_surroundings(error) from error
            progress = _failed(store, error)
        if progress.verdict is not None:
            self._broken = ASSERTED in progress.verdict.reason  # every later call on that device fails, in this process
            self.cleanup()
        measured = {} if progress.metric is None else {"metric": progress.metric}
        return {"task": progress.task, "tasks": progress.task + 1, "done": progress.verdict is not None, **measured}

    def cleanup(self) -> None:
        """End what the trial holds outside its store."""
        session, replay = self._running, self._replay
        self._running, self._replay = None, None
        if session is not None:
            session.close()
        if replay is not None:
            replay.close()

    def _open(self, spec: TrialSpec, store: TrialStore) -> TrialSession:
        torch.set_num_threads(spec.resources.cpus)
        device = _accelerator(spec.resources.gpus)
        if spec.uses_memory and spec.memory.home == "actor":
            self._replay = ShardedStorage(spec.memory.shards)
        source = RemoteSource(ShardNames.from_dict(self._job["streams"]), spec.stream, spec.seed, spec.train_on)
        return TrialSession(
            spec,
            source,
            store,
            metric=self._job["metric"],
            cutoffs={int(task): value for task, value in self._job["cutoffs"].items()},
            storage=self._replay,
            device=device,
            data_root=Path(self._job["data_root"]) if self._job.get("data_root") else None,
            lost=LOST,
        )


def _accelerator(gpus: float) -> torch.device | None:
    """The device of a trial that asks for a share of one; None where it asks for none.

    Raises:
        InfrastructureError: this machine has none that works. A trial must not train on the CPU without a word.
    """
    if gpus <= 0:
        return None
    if not torch.accelerator.is_available():
        raise InfrastructureError(
            f"{socket.gethostname()}: a trial asks for {gpus:g} GPUs, and torch {torch.__version__} finds none that "
            "works here; install its driver, or take this machine out of the cluster, or set resources.gpus to 0"
        )
    return torch.accelerator.current_accelerator()


def _failed(store: TrialStore, error: Exception) -> Progress:
    """Write down that the method failed."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    reason = f"{type(error).__name__}: {error} (line {place.lineno} of {Path(place.filename).name})"
    manifest = store.latest()
    task = -1 if manifest is None else manifest.task
    verdict = Verdict("failed", reason, None, task)
    store.finish(verdict, {}, traceback_of(error))
    return Progress(task, task + 1, None, verdict)
