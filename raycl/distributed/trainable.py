"""What Ray Tune runs on a worker: one step is one task, and a task is stored before it is reported."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.exceptions import RayError

from raycl.distributed.carried import unpacked
from raycl.distributed.replay import LentStorage, ShardedStorage
from raycl.distributed.streams import RemoteSource, ShardNames
from raycl.errors import InfrastructureError
from raycl.results.store import ResultsFolder
from raycl.spec.trial import TrialSpec
from raycl.trial.device import accelerator
from raycl.trial.session import ASSERTED, INFRASTRUCTURE, TrialSession
from raycl.trial.warm_up import warm_up

LOST = (*INFRASTRUCTURE, RayError)
"""What says nothing about the method: the trial is lost, and runs again."""


class TrialRunner(tune.Trainable):  # type: ignore[misc]
    """Runs trials one after another in one process."""

    def setup(self, config: dict[str, Any]) -> None:
        warm_up()
        self._catalog = unpacked(config["registered"])
        self._job = config
        self._running: TrialSession | None = None
        self._replay: ShardedStorage | None = None
        self._broken = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Make ready for the next trial: replay actors of the last one are empty before it starts."""
        self._end_trial()
        self._job = new_config
        return True

    def step(self) -> dict[str, Any]:
        if self._broken:
            raise InfrastructureError("an earlier trial broke this process's device; a new process takes over")
        if self._running is None:
            self._running = self._session()
        progress = self._running.step()
        if progress.verdict is not None:
            self._broken = ASSERTED in progress.verdict.reason  # every later call on that device fails, in this process
            self._end_trial()
        measured = {} if progress.metric is None else {"metric": progress.metric}
        return {"task": progress.task, "tasks": progress.task + 1, "done": progress.verdict is not None, **measured}

    def cleanup(self) -> None:
        """End what the trial and this process hold outside the store."""
        self._end_trial()
        self._end_replay()

    def _end_trial(self) -> None:
        session, self._running = self._running, None
        if session is not None:
            session.close()

    def _end_replay(self) -> None:
        replay, self._replay = self._replay, None
        if replay is not None:
            replay.close()

    def _lent_replay(self, shards: int) -> LentStorage:
        """This process's replay actors: made for its first trial that keeps examples, and lent to those that follow."""
        if self._replay is not None and self._replay.shards == shards:
            with suppress(InfrastructureError):  # one was lost since
                return self._replay.lent()
        self._end_replay()
        self._replay = ShardedStorage(shards)
        return self._replay.lent()

    def _session(self) -> TrialSession:
        spec = TrialSpec.loads(self._job["spec"])
        torch.set_num_threads(spec.resources.cpus)
        device = accelerator(spec.resources.gpus)
        held = spec.uses_memory and spec.memory.home == "actor"
        return TrialSession(
            RemoteSource(ShardNames.from_dict(self._job["streams"]), spec.stream, spec.run_seeds, spec.train_on),
            ResultsFolder.open(self._job["results"]).trial(spec),
            metric=self._job["metric"],
            cutoffs={int(task): value for task, value in self._job["cutoffs"].items()},
            catalog=self._catalog,
            storage=self._lent_replay(spec.memory.shards) if held else None,
            device=device,
            data_root=Path(self._job["data_root"]) if self._job.get("data_root") else None,
            lost=LOST,
        )
