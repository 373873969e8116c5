"""What the trials of a sweep will read, and whether it can be read: looked at before the first of them starts."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycl.spec.choosing import chooses
from raycl.spec.seeds import RunSeeds
from raycl.spec.setting import Registries
from raycl.spec.sweep import Entry, SweepSpec
from raycl.spec.trial import SweepPhase, TrialSpec, stream_config
from raycl.streams.refusals import check_data, check_split
from raycl.streams.source import LocalSource, TrainOn, make_stream
from raycl.streams.task import SplitName

SOURCES = 16
"""Streams that are kept ready; a stream is one configuration with its seeds."""


@dataclass(frozen=True)
class StreamKey:
    """Names one stream: plain data that travels with every question. What else a run's seeds decide is left out."""

    stream: str
    class_order: int
    split: int
    train_on: TrainOn

    @classmethod
    def of(cls, stream: Mapping[str, Any], seed: int | RunSeeds, train_on: TrainOn) -> StreamKey:
        seeds = RunSeeds.of(seed)
        return cls(json.dumps(dict(stream), sort_keys=True), seeds.class_order, seeds.split, train_on)

    def source(self, catalog: Registries, data_root: str | None) -> LocalSource:
        """The stream itself, in this process."""
        config = stream_config(catalog, json.loads(self.stream))
        seeds = RunSeeds.of(self.class_order).model_copy(update={"split": self.split})
        return LocalSource(catalog, config, seeds, Path(data_root) if data_root else None, self.train_on)


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
    """The streams of this process, of which the latest few are kept ready.

    Args:
        catalog: where streams and their data sets are registered.
    """

    def __init__(self, catalog: Registries, data_root: str | None) -> None:
        self._catalog = catalog
        self._data_root = data_root
        self._ready: OrderedDict[StreamKey, LocalSource] = OrderedDict()

    def get(self, key: StreamKey) -> LocalSource:
        if key not in self._ready:
            self._ready[key] = key.source(self._catalog, self._data_root)
            if len(self._ready) > SOURCES:
                self._ready.popitem(last=False)
        self._ready.move_to_end(key)
        return self._ready[key]


def reads(sweep: SweepSpec, entries: Sequence[Entry], known: Mapping[str, frozenset[str]]) -> list[Read]:
    """What the trials of some entries will read in all phases: each stream with each seed, and the split that scores.

    All of it is looked at before the first trial starts: what is missing for the final phase is not found after a
    whole search. Searched values stand in no stream, so the middle of each space names all of them.

    Args:
        known: of :func:`recorded_data`.
    """
    search, final = sweep.search, sweep.final
    validating = (*search.runs, *(search.finalists.runs if search.finalists else ())) if search else ()
    scoring = final.runs if final else ()
    phases: list[tuple[SweepPhase, Sequence[RunSeeds]]] = [("search", validating), ("final", scoring)]
    phases += [("table", sweep.table.runs)] if sweep.table else []
    found: dict[Read, None] = {}
    for entry in entries:
        judged: tuple[SplitName, ...] = ("validation",) if chooses(sweep, entry) else ()
        for phase, seeds in phases if sweep.runs(entry).search else phases[1:]:
            for seed in seeds:
                spec = sweep.trial(entry, entry.middle, seed, phase)
                key = StreamKey.of(spec.stream, spec.run_seeds, spec.train_on)
                held = known.get(data_key(sweep.catalog, spec.stream), frozenset())
                also: tuple[SplitName, ...] = () if spec.also_on is None else (spec.also_on,)
                found[Read(key, ("train", *judged, spec.score_on, *also), held)] = None
    return list(found)


def data_key(catalog: Registries, stream: Mapping[str, Any]) -> str:
    """Names what a trial's ``stream`` block reads, whatever it makes of it: equal names, equal data."""
    encode = stream.get("encode") or {}
    read = [encode.get(name) for name in ("weights_hash", "resize", "dtype")]
    return json.dumps([make_stream(catalog, stream_config(catalog, stream), 0).datasets(), read])


def recorded_data(trials: Sequence[pa.Table], catalog: Registries) -> dict[str, frozenset[str]]:
    """The digests of the data that ended trials have learned from, by :func:`data_key`.

    Args:
        trials: the trials tables of one or more folders.
    """
    found: dict[str, set[str]] = {}
    known = [table.select(["data", "spec"]) for table in trials if "data" in table.column_names]
    for row in (row for table in known for row in table.to_pylist()):
        if row["data"]:
            key = data_key(catalog, TrialSpec.loads(row["spec"]).stream)
            found.setdefault(key, set()).add(row["data"])
    return {key: frozenset(digests) for key, digests in found.items()}


def check_reads(reads: Iterable[Read], source_of: Callable[[StreamKey], LocalSource]) -> list[str]:
    """Read streams in this process, before a trial needs them.

    Returns:
        The digests of their data.

    Raises:
        DataError: a data set is missing, a task of a split has no images, or the data are not those of finished trials.
    """
    digests = []
    for read in reads:
        source = source_of(read.key)
        for split in read.splits:
            check_split(source, split)
        check_data(source, read.known)
        digests.append(source.layout.data_digest)
    return digests
