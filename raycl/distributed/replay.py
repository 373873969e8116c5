"""Replay rows in Ray actors: slot s lives in shard s % n. The actors belong to the worker that makes them, and are lent
to its trials one after another: to start and end one takes a second.

Ray starts the actors beside the worker, ends them and says when they are gone. Rows travel over a line of the trial's
own to each of them, a Unix socket, since a draw is worth a tenth of a millisecond of the trial's time, and a call
through Ray takes several.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from raycl.distributed.shard import Message, ReplayShard, SlotChange
from raycl.errors import InfrastructureError
from raycl.memory.buffer import Table
from raycl.memory.columns import Arrays, ColumnTypes
from raycl.memory.local import Fetch

NO_SLOTS = np.empty(0, dtype=np.int64)


@dataclass
class _Part:
    """The rows of a read that one actor holds: their places in the read, and the rows once they have come."""

    line: _Line
    places: Any
    rows: Arrays | None = None


class _Line:
    """The trial's end of the line to one actor. Answers come in the order of the questions."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._owed: deque[_Part] = deque()

    def tell(self, change: SlotChange) -> None:
        self._send((change, None))

    def forget(self) -> None:
        self._send((None, None))

    def ask(self, slots: np.ndarray, places: Any) -> _Part:
        self._send((None, slots))
        self._owed.append(_Part(self, places))
        return self._owed[-1]

    def answer(self, part: _Part) -> Arrays:
        while part.rows is None:
            self._take_in()
        return part.rows

    def close(self) -> None:
        self._connection.close()

    def _send(self, message: Message) -> None:
        """Answers first: both ends would wait for ever if the actor could not get rid of a long one."""
        while self._owed:
            self._take_in()
        with self._standing():
            self._connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))

    def _take_in(self) -> None:
        with self._standing():
            self._owed.popleft().rows = pickle.loads(self._connection.recv_bytes())

    @contextmanager
    def _standing(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            raise _lost(self._name, error) from error


class ShardedStorage:
    """Rows in ``shards`` actors; meets :class:`raycl.memory.local.Storage`.

    The actors take no CPU slot and live on this process's node. They are never restarted: their rows stand in the
    trial's checkpoint, from which the trial goes on. Each handles its messages in order, so a read shows every write
    begun before it and none after.

    Args:
        shards: number of actors.
        timeout: seconds until an actor that does not answer counts as lost.

    Raises:
        InfrastructureError: an actor does not start; later, from every method: an actor was lost.
    """

    def __init__(self, shards: int = 1, *, timeout: float = 60.0) -> None:
        self._timeout = timeout
        self._schema: ColumnTypes = {}
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0, scheduling_strategy=here)(ReplayShard)
        self._shards = [actor.remote() for _ in range(shards)]
        self._lines: list[_Line] = []
        try:
            for number, shard in enumerate(self._shards):
                name = f"replay actor {number} of {shards}"
                self._lines.append(_Line(_connection(shard, name, timeout), name))
        except InfrastructureError:
            self.close()
            raise

    def declare(self, schema: ColumnTypes) -> None:
        self._schema = {**self._schema, **schema}
        for line in self._lines:
            line.tell((schema, NO_SLOTS, {}))

    def write(self, slots: Tensor, columns: Table) -> None:
        for line, places, own in self._by_shard(slots.numpy()):
            line.tell(({}, own, {name: column.numpy()[places] for name, column in columns.items()}))

    def begin_read(self, slots: Tensor) -> Fetch:
        count, schema = len(slots), self._schema
        parts = [line.ask(own, places) for line, places, own in self._by_shard(slots.numpy())]

        def fetch() -> Table:
            table = {name: np.empty((count, *shape), dtype) for name, (dtype, shape) in schema.items()}
            for part in parts:
                for name, column in part.line.answer(part).items():
                    table[name][part.places] = column
            return {name: torch.from_numpy(column) for name, column in table.items()}

        return fetch

    @property
    def shards(self) -> int:
        """Number of actors; 0 once they have ended."""
        return len(self._lines)

    def lent(self) -> LentStorage:
        """The same actors, empty, for one trial.

        Raises:
            InfrastructureError: an actor was lost.
        """
        self.empty()
        return LentStorage(self)

    def empty(self) -> None:
        """Forget all rows and columns."""
        self._schema = {}
        for line in self._lines:
            line.forget()

    def close(self) -> None:
        """End the actors and wait until Ray counts them as gone; their memory is the next trial's."""
        shards, self._shards = self._shards, []
        lines, self._lines = self._lines, []
        for line in lines:
            line.close()
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

    def _by_shard(self, slots: np.ndarray) -> list[tuple[_Line, Any, np.ndarray]]:
        """For each shard that holds some of the slots: its line, their places among these, and its own slots."""
        count = len(self._lines)
        if count == 1:
            return [(self._lines[0], slice(None), slots)] if len(slots) else []
        owners, own = slots % count, slots // count
        parts = [(line, np.flatnonzero(owners == number)) for number, line in enumerate(self._lines)]
        return [(line, places, own[places]) for line, places in parts if len(places)]


class LentStorage:
    """Storage of a worker in the hands of one trial, whose close gives it back empty and ends no actor."""

    def __init__(self, storage: ShardedStorage) -> None:
        self._storage = storage
        self.declare = storage.declare
        self.write = storage.write
        self.begin_read = storage.begin_read

    def close(self) -> None:
        with suppress(InfrastructureError):  # a trial that is closed has no more to lose; the next one will find out
            self._storage.empty()


def _connection(shard: Any, name: str, timeout: float) -> Connection:
    """Let an actor call: in a folder that is this user's alone, and gone as soon as the line stands."""
    with tempfile.TemporaryDirectory(prefix="raycl-") as folder:
        address = str(Path(folder) / "line")
        with Listener(address) as listener:
            try:
                ray.get(shard.join.remote(address), timeout=timeout)
            except RayError as error:
                raise _lost(name, error) from error
            connection = listener.accept()
    _limit(connection, timeout)
    return connection


def _limit(connection: Connection, seconds: float) -> None:
    """Let what waits longer than this for the other end fail; the system watches the time, at no cost to a message."""
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            same.setsockopt(socket.SOL_SOCKET, direction, struct.pack("ll", *divmod(int(seconds * 1e6), 1_000_000)))


def _lost(name: str, error: Exception) -> InfrastructureError:
    reason = "no answer in time" if isinstance(error, BlockingIOError) else type(error).__name__
    return InfrastructureError(
        f"{name} was lost ({reason}) and the replay rows in it; the trial goes on from its last checkpoint"
    )


def _answers(shard: Any, timeout: float) -> bool:
    try:
        ray.get(shard.__ray_ready__.remote(), timeout=max(timeout, 0.1))
    except RayActorError:
        return False
    except RayError:
        return True
    return True
