"""Task streams in Ray actors: every trial of a node reads one copy of the images, through the object store.

Task t is built on demand by shard t % n; the base images that tasks share are put into the object store by the one
shard that their name falls to. The driver owns the shards, trials know them by name.
"""

from __future__ import annotations

import json
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycl.addresses import expanded
from raycl.catalog import catalog
from raycl.distributed.carried import packed, unpacked
from raycl.errors import DataError, InfrastructureError, RayclError, UnknownName
from raycl.spec.seeds import RunSeeds
from raycl.spec.setting import Registries
from raycl.streams.source import LocalSource, TrainOn
from raycl.streams.task import Layout, Part, SplitName
from raycl.sweep.data import Read, Sources, StreamKey, check_reads

T = TypeVar("T")

BACKOFF = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each attempt to ask a shard."""

ASK_AGAIN = (RayActorError, ObjectLostError, GetTimeoutError)
"""What asking again may cure."""

log = logging.getLogger(__name__)

NO_IMAGES = np.empty((0, 0, 0, 0), dtype=np.uint8)


@dataclass(frozen=True)
class ShardNames:
    """What a trial must know of the shards; small plain data.

    Attributes:
        names: of the actors, in order.
        namespace: Ray's namespace in which they are named.
    """

    names: tuple[str, ...]
    namespace: str

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for a trial's configuration."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ShardNames:
        return cls(tuple(data["names"]), data["namespace"])


class StreamShard:
    """The actor: builds streams on demand, and rebuilds them after a restart."""

    def __init__(self, data_root: str | None, registered: bytes = b"") -> None:
        self._problem = ""
        known: Registries = catalog()
        try:
            known = unpacked(registered)
        except UnknownName as error:
            self._problem = str(error)
        self._sources = Sources(known, data_root)
        self._base: dict[str, Any] = {}

    def ready(self) -> str:
        """What keeps this process from serving; empty where nothing does."""
        return self._problem

    def check(self, reads: list[Read]) -> tuple[str, list[str], list[str]]:
        """As :func:`_read_all`; what is read here need not be read again to be served."""
        return _read_by(reads, self._sources.get)

    def layout(self, key: StreamKey) -> Layout:
        return self._sources.get(key).layout

    def part(self, key: StreamKey, task: int, split: SplitName) -> Part:
        """One split of one task, without its images."""
        return replace(self._sources.get(key).part(task, split), images=NO_IMAGES)

    def images(self, key: StreamKey, task: int, split: SplitName) -> list[Any]:
        """One reference to the base images of a part, put into the object store once."""
        part = self._sources.get(key).part(task, split)
        if part.base not in self._base:
            self._base[part.base] = ray.put(part.images)
        return [self._base[part.base]]


class StreamShards:
    """The driver's side: makes the shards and ends them. They also end with the driver.

    Args:
        catalog: where streams and their data sets are registered.
        count: number of actors, spread over the nodes; one for each node is plenty.
        data_root: folder of the data sets, as every node sees it.
        name: prefix of the actors' names, unique in the driver's namespace.

    Raises:
        InfrastructureError: an actor does not start.
        UnknownName: a file of the user's cannot be imported there.
    """

    def __init__(
        self,
        catalog: Registries,
        count: int,
        data_root: Path | None = None,
        *,
        name: str = "raycl",
        timeout: float = 60.0,
    ) -> None:
        root = data_root and expanded(data_root)
        self._data_root = str(root.resolve()) if root else None
        self._registered = packed(catalog)
        self._timeout = timeout
        self.names = ShardNames(
            tuple(f"{name}-stream-{number}" for number in range(count)), ray.get_runtime_context().namespace
        )
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": "SPREAD"}
        actor = ray.remote(**options)(StreamShard)
        self._shards = [
            actor.options(name=shard).remote(self._data_root, self._registered) for shard in self.names.names
        ]
        try:
            problems = ray.get([shard.ready.remote() for shard in self._shards], timeout=timeout)
        except RayError as error:
            self.close()
            raise InfrastructureError(f"the stream actors did not start within {timeout:g} s: {error}") from error
        if any(problems):
            self.close()
            raise UnknownName(next(filter(None, problems)))

    def check(self, reads: Iterable[Read]) -> None:
        """Read every stream once on every node, before any trial starts: a shard may live on a node without CPUs.

        Raises:
            DataError: a node cannot read a data set, a task of a split has no images, or the data are not those of
                another node or of finished trials; the message names the node.
            InfrastructureError: a node does not answer.
        """
        asked = list(reads)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        reading = ray.remote(num_cpus=0, max_calls=1)(_read_all)  # one call: its process would keep the data

        def ask(node: Mapping[str, Any]) -> Any:
            if len(nodes) == 1:  # the shards live there, and another process takes seconds to start
                return self._shards[0].check.options(max_task_retries=0).remote(asked)
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            return reading.options(scheduling_strategy=here).remote(asked, self._data_root, self._registered)

        if any(json.loads(read.key.stream).get("encode") for read in asked):  # the first computes for all, however long
            ray.wait([ask(nodes[0])])
        found: dict[str, list[str]] = {}
        warnings: dict[str, None] = {}
        for node, answer in [(node, ask(node)) for node in nodes]:
            address = node["NodeManagerAddress"]
            try:
                problem, found[address], told = ray.get(answer, timeout=10 * self._timeout)
            except RayError as error:
                raise InfrastructureError(f"node {address} cannot be asked for the data: {error}") from error
            if problem:
                raise DataError(f"node {address}: {problem}")
            warnings |= dict.fromkeys(told)
        for text in warnings:
            log.warning("%s", text)
        (first, digests), *others = found.items()
        odd = [address for address, theirs in others if theirs != digests]
        if odd:
            raise DataError(f"node {odd[0]} holds other data than node {first}; give all nodes the same files")

    def close(self) -> None:
        """End the actors."""
        shards, self._shards = self._shards, []
        if ray.is_initialized():
            for shard in shards:
                ray.kill(shard)


class RemoteSource:
    """One stream served by the shards; meets :class:`raycl.streams.task.TaskSource`, as the local source does.

    Images are read-only views of the object store: no copy, and readable even after the shard that put them has died.
    A shard that died is asked again, since Ray restarts it and it builds the same data anew.

    Args:
        shards: :attr:`StreamShards.names`.
        stream: the resolved ``stream`` block of a trial.
        seed: the run's seed, or the seeds of its sources of randomness.
        train_on: as for the local source.
        timeout: seconds until an answer counts as lost, in each attempt.
    """

    def __init__(
        self,
        shards: ShardNames,
        stream: Mapping[str, Any],
        seed: int | RunSeeds,
        train_on: TrainOn = "train",
        *,
        timeout: float = 60.0,
    ) -> None:
        self._shards = shards
        self._key = StreamKey.of(stream, seed, train_on)
        self._timeout = timeout
        self._layout: Layout | None = None
        self._base: dict[str, np.ndarray] = {}
        self._ahead: dict[tuple[int, SplitName], Any] = {}

    @property
    def layout(self) -> Layout:
        if self._layout is None:
            self._layout = self._ask(0, lambda shard: self._get(shard.layout.remote(self._key)))
        return self._layout

    def part(self, task: int, split: SplitName) -> Part:
        ahead = self._ahead.pop((task, split), None)
        part = None if ahead is None else self._fetched(ahead)
        if part is None:
            part = self._ask(task, lambda shard: self._get(shard.part.remote(self._key, task, split)))
        if part.base not in self._base:
            number = zlib.crc32(part.base.encode())
            self._base[part.base] = self._ask(number, lambda shard: self._images(shard, task, split))
        # Copies of the small arrays let go of the message they came in.
        return replace(part, images=self._base[part.base], rows=part.rows.copy(), labels=part.labels.copy())

    def prefetch(self, task: int, split: SplitName) -> None:
        if (task, split) in self._ahead:
            return
        with suppress(RayError, ValueError):  # what goes wrong here is asked for, with patience, when it is needed
            self._ahead[task, split] = self._shard(task).part.remote(self._key, task, split)

    def _images(self, shard: Any, task: int, split: SplitName) -> np.ndarray:
        (reference,) = self._get(shard.images.remote(self._key, task, split))
        images: np.ndarray = self._get(reference)
        return images

    def _fetched(self, ahead: Any) -> Part | None:
        """A part that was asked for ahead, or None where it was lost."""
        try:
            part: Part = self._get(ahead)
        except ASK_AGAIN:
            return None
        return part

    def _ask(self, number: int, question: Callable[[Any], T]) -> T:
        """The answer of a shard, asked again while it is being restarted."""
        lost: Exception = InfrastructureError("it was not asked")
        for pause in BACKOFF:
            time.sleep(pause)
            try:
                shard = self._shard(number)
            except ValueError as error:  # Ray knows no actor of this name, yet
                lost = error
                continue
            try:
                return question(shard)
            except ASK_AGAIN as error:
                lost = error
        raise InfrastructureError(
            f"stream actor {self._name(number)!r} did not answer in {len(BACKOFF)} attempts "
            f"({type(lost).__name__}: {lost})"
        ) from lost

    def _get(self, reference: Any) -> Any:
        try:
            return ray.get(reference, timeout=self._timeout)
        except RayTaskError as error:
            if isinstance(error.cause, RayclError):
                raise error.cause from None  # as the local source raises it, without the actor's traceback
            raise InfrastructureError(f"a stream actor failed: {error.cause!r}") from error  # no method's fault

    def _shard(self, number: int) -> Any:
        return ray.get_actor(self._name(number), namespace=self._shards.namespace)

    def _name(self, number: int) -> str:
        return self._shards.names[number % len(self._shards.names)]


class _Heard(logging.Handler):
    """Keeps what raycl warns of while it is held: what a worker logs reaches nobody."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def __enter__(self) -> list[str]:
        logging.getLogger("raycl").addHandler(self)
        return self.texts

    def __exit__(self, *ended: object) -> None:
        logging.getLogger("raycl").removeHandler(self)


def _read_all(reads: list[Read], data_root: str | None, registered: bytes) -> tuple[str, list[str], list[str]]:
    """What keeps this node from reading the streams, empty where nothing does; the digests of their data; and what is
    to be known of them, as that images were converted."""
    try:
        known = unpacked(registered)
    except UnknownName as error:
        return str(error), [], []
    return _read_by(reads, lambda key: key.source(known, data_root))


def _read_by(reads: list[Read], source_of: Callable[[StreamKey], LocalSource]) -> tuple[str, list[str], list[str]]:
    digests: list[str] = []
    with _Heard() as heard:
        try:
            digests = check_reads(reads, source_of)
        except RayclError as error:
            return str(error), digests, heard
        return "", digests, heard
