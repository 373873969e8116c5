"""What the trials of a sweep will read, and whether it can be read: looked at before the first of them starts."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycl.errors import RayclError
from raycl.spec.sweep import Entry, SweepSpec
from raycl.spec.trial import SweepPhase
from raycl.streams.refusals import check_data, check_split
from raycl.streams.source import LocalSource, TrainOn
from raycl.streams.task import SplitName
from raycl.sweep.changes import data_key

SOURCES = 16
"""Streams that are kept ready; a stream is one configuration with one seed."""


@dataclass(frozen=True)
class StreamKey:
    """Names one stream: plain data that travels with every question."""

    stream: str
    seed: int
    train_on: TrainOn

    @classmethod
    def of(cls, stream: Mapping[str, Any], seed: int, train_on: TrainOn) -> StreamKey:
        return cls(json.dumps(dict(stream), sort_keys=True), seed, train_on)

    def source(self, data_root: str | None) -> LocalSource:
        """The stream itself, in this process."""
        return LocalSource(json.loads(self.stream), self.seed, Path(data_root) if data_root else None, self.train_on)


@dataclass(frozen=True)
class Read:
    """A stream, and the splits of it that some trial will read.

    Attributes:
        known: digests of the data that finished trials of the folder have learned from; the data must be those.
    """

    key: StreamKey
    splits: tuple[SplitName, ...]
    known: frozenset[str] = frozenset()


class Sources:
    """The streams of this process, of which the latest few are kept ready."""

    def __init__(self, data_root: str | None) -> None:
        self._data_root = data_root
        self._ready: OrderedDict[StreamKey, LocalSource] = OrderedDict()

    def get(self, key: StreamKey) -> LocalSource:
        if key not in self._ready:
            self._ready[key] = key.source(self._data_root)
            if len(self._ready) > SOURCES:
                self._ready.popitem(last=False)
        self._ready.move_to_end(key)
        return self._ready[key]


def reads(sweep: SweepSpec, entries: Sequence[Entry], known: Mapping[str, frozenset[str]]) -> list[Read]:
    """What the trials of some entries will read in all phases: each stream with each seed, and the split that scores.

    All of it is looked at before the first trial starts: what is missing for the final phase is not found after a
    whole search. Searched values stand in no stream, so the middle of each space names all of them.

    Args:
        known: of :func:`raycl.sweep.changes.recorded_data`.
    """
    search, final = sweep.search, sweep.final
    validating = (*search.seeds, *(search.finalists.seeds if search.finalists else ())) if search else ()
    phases: list[tuple[SweepPhase, Sequence[int]]] = [("search", validating), ("final", final.seeds if final else ())]
    found: dict[Read, None] = {}
    for entry in entries:
        for phase, seeds in phases if entry.space else phases[1:]:
            for seed in seeds:
                spec = sweep.trial(entry, entry.middle, seed, phase)
                key = StreamKey.of(spec.stream, spec.seed, spec.train_on)
                found[Read(key, ("train", spec.score_on), known.get(data_key(spec.stream), frozenset()))] = None
    return list(found)


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


def read_all(reads: Sequence[Read], data_root: str | None) -> tuple[str, list[str], list[str]]:
    """Read streams in this process.

    Returns:
        What keeps it from reading them, empty where nothing does; the digests of their data; and what is to be known
        of them, as that images were converted.
    """
    digests: list[str] = []
    with _Heard() as heard:
        try:
            for read in reads:
                source = read.key.source(data_root)
                for split in read.splits:
                    check_split(source, split)
                check_data(source, read.known)
                digests.append(source.layout.data_digest)
        except RayclError as error:
            return str(error), digests, heard
        return "", digests, heard
