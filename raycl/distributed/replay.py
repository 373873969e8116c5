"""Replay rows in Ray actors: slot s lives in shard s % n. The actors belong to the trial that makes them."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError
from torch import Tensor

from raycl.distributed.shard import Change, ReplayShard
from raycl.errors import InfrastructureError
from raycl.memory.buffer import Table
from raycl.memory.columns import Schema
from raycl.memory.local import Fetch

HELD_BACK = 32
"""Changes that wait at most for the next read before they are sent on their own."""

NO_SLOTS = np.empty(0, dtype=np.int64)
NOTHING = pickle.dumps(([], None))


class ShardedStorage:
    """Rows in ``shards`` actors; meets :class:`raycl.memory.local.Storage`.

    The actors take no CPU slot, so that made inside a trial they live in its placement group beside it. They are never
    restarted: their rows stand in the trial's checkpoint, from which the trial goes on. Ray keeps the order of the
    messages to one actor, and writes travel with the next read, so a read shows every write begun before it and none
    after.

    Args:
        shards: number of actors.
        timeout: seconds until an actor that does not answer counts as lost.

    Raises:
        InfrastructureError: an actor does not start; later, from every method: an actor was lost.
    """

    def __init__(self, shards: int = 1, *, timeout: float = 60.0) -> None:
        self._timeout = timeout
        self._schema: Schema = {}
        actor = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(ReplayShard)
        self._shards = [actor.remote() for _ in range(shards)]
        self._changes: list[list[Change]] = [[] for _ in range(shards)]
        self._unconfirmed: list[Any] = [shard.exchange.remote(NOTHING) for shard in self._shards]
        try:
            self._get([])
        except InfrastructureError:
            self.close()
            raise

    def declare(self, schema: Schema) -> None:
        self._schema = {**self._schema, **schema}
        for number in range(len(self._shards)):
            self._change(number, (schema, NO_SLOTS, {}))

    def write(self, slots: Tensor, columns: Table) -> None:
        for number, rows, own in self._by_shard(slots.numpy()):
            # Copies: the caller may go on to write into its tensors before the change is sent.
            self._change(
                number, ({}, own.copy(), {name: column.numpy()[rows].copy() for name, column in columns.items()})
            )

    def begin_read(self, slots: Tensor) -> Fetch:
        count, schema = len(slots), self._schema
        parts = [(rows, self._exchange(number, own)) for number, rows, own in self._by_shard(slots.numpy())]

        def fetch() -> Table:
            table = {name: np.empty((count, *shape), dtype) for name, (dtype, shape) in schema.items()}
            for (rows, _), answer in zip(parts, self._get([part for _, part in parts]), strict=True):
                for name, array in pickle.loads(answer).items():
                    table[name][rows] = array
            return {name: torch.from_numpy(array) for name, array in table.items()}

        return fetch

    def close(self) -> None:
        """End the actors and wait until Ray counts them as gone; their memory is the next trial's."""
        shards, self._shards = self._shards, []
        self._unconfirmed = []
        if not ray.is_initialized():
            return
        for shard in shards:
            ray.kill(shard)
        deadline = time.monotonic() + self._timeout
        for number, shard in enumerate(shards):
            while _answers(shard, deadline - time.monotonic()):
                if time.monotonic() > deadline:
                    raise InfrastructureError(f"replay actor {number} did not end within {self._timeout:g} s")
                time.sleep(0.01)

    def _by_shard(self, slots: np.ndarray) -> list[tuple[int, Any, np.ndarray]]:
        """For each shard that holds some of the slots: its number, the rows it holds, and its own slots."""
        count = len(self._shards)
        if count == 1:
            return [(0, slice(None), slots)] if len(slots) else []
        owners = slots % count
        parts = [(number, np.flatnonzero(owners == number)) for number in range(count)]
        return [(number, rows, slots[rows] // count) for number, rows in parts if len(rows)]

    def _change(self, shard: int, change: Change) -> None:
        self._changes[shard].append(change)
        if len(self._changes[shard]) >= HELD_BACK:
            self._get([])  # a trial that only writes must not run ahead of its actors and fill the object store
            self._unconfirmed.append(self._exchange(shard, None))

    def _exchange(self, shard: int, slots: np.ndarray | None) -> Any:
        changes, self._changes[shard] = self._changes[shard], []
        return self._shards[shard].exchange.remote(pickle.dumps((changes, slots), pickle.HIGHEST_PROTOCOL))

    def _get(self, answers: Sequence[Any]) -> list[Any]:
        """The answers, with every message that was sent without a read confirmed."""
        before, self._unconfirmed = self._unconfirmed, []
        try:
            return list(ray.get([*before, *answers], timeout=self._timeout)[len(before) :])
        except RayTaskError:
            raise
        except RayError as error:
            raise InfrastructureError(
                f"{self._lost(error)} was lost ({type(error).__name__}) and the replay rows in it; "
                "the trial goes on from its last checkpoint"
            ) from error

    def _lost(self, error: RayError) -> str:
        ids = [shard._actor_id.hex() for shard in self._shards]
        actor = getattr(error, "actor_id", None)
        return f"replay actor {ids.index(actor)} of {len(ids)}" if actor in ids else f"one of {len(ids)} replay actors"


def _answers(shard: Any, timeout: float) -> bool:
    try:
        ray.get(shard.exchange.remote(NOTHING), timeout=max(timeout, 0.1))
    except RayActorError:
        return False
    except RayError:
        return True
    return True
