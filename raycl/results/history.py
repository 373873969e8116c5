"""What is there of a trial: its manifests, which of them are complete, and which continues which."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from raycl.errors import TornFile
from raycl.matrix import TaskRow
from raycl.results import schema
from raycl.results.files import Files, digest

Key = tuple[int, int]
"""(task, attempt)"""
Seal = tuple[int, str]
"""(size in bytes, sha256)"""

COMPACT = "history.parquet"
"""All rows and manifests of a finished trial in one file, relative to its folder."""
_MANIFEST = re.compile(r"manifests/\d{4,}-\d{4,}\.json")
_OWNER, _MANIFESTS = "manifest", "raycl.manifests"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """What one attempt left after one task.

    Attributes:
        parent: the manifest whose state this one continues; None at the start of a trial.
        rows, checkpoint: file -> seal, relative to the trial's folder.
        extra: what the session wants to find again.
        written: seconds since the epoch.
    """

    task: int
    attempt: int
    parent: Key | None
    rows: dict[str, Seal]
    checkpoint: dict[str, Seal]
    extra: dict[str, Any]
    written: float

    @property
    def key(self) -> Key:
        return self.task, self.attempt

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Manifest:
        """From parsed JSON."""
        rows, checkpoint = ({k: (v[0], v[1]) for k, v in stored[part].items()} for part in ("rows", "checkpoint"))
        parent = None if stored["parent"] is None else (int(stored["parent"][0]), int(stored["parent"][1]))
        return cls(stored["task"], stored["attempt"], parent, rows, checkpoint, stored["extra"], stored["written"])


@dataclass(frozen=True)
class History:
    """A trial's folder as it was when read.

    Attributes:
        sizes: bytes of every file there, relative to the folder.
        manifests: the readable ones, the furthest first.
    """

    files: Files
    folder: str
    sizes: Mapping[str, int]
    manifests: Mapping[Key, Manifest]
    _rows_read: dict[Key, list[TaskRow]] = field(default_factory=dict)

    @classmethod
    def read(cls, files: Files, folder: str) -> History:
        sizes = files.sizes(folder)
        found: dict[Key, Manifest] = {}
        rows: dict[Key, list[TaskRow]] = {}
        if COMPACT in sizes:
            try:
                found, rows = _unpacked(files.read(f"{folder}/{COMPACT}") or b"", files.name(f"{folder}/{COMPACT}"))
            except TornFile as error:
                log.warning("skipped a torn history: %s", error)
        for path in filter(_MANIFEST.fullmatch, sizes):
            try:
                manifest = Manifest.of(files.read_json(f"{folder}/{path}"))
            except (TornFile, KeyError, TypeError) as error:
                log.warning("skipped a torn manifest %s: %s", files.name(f"{folder}/{path}"), error)
                continue
            found.setdefault(manifest.key, manifest)
        return cls(files, folder, sizes, {key: found[key] for key in sorted(found, reverse=True)}, rows)

    def compact(self) -> bytes:
        """Every manifest with its rows, as the bytes of :data:`COMPACT`; manifests whose rows are torn are left out."""
        whole = [manifest for manifest in self.manifests.values() if self._whole(manifest.rows)]
        rows = [self._read_rows(manifest) for manifest in whole]
        table = schema.rows_table([row for each in rows for row in each])
        owner = [number for number, each in enumerate(rows) for _ in each]
        manifests = json.dumps([asdict(replace(manifest, rows={})) for manifest in whole], sort_keys=True)
        return schema.to_parquet(
            table.append_column(_OWNER, pa.array(owner, pa.int32())), notes={_MANIFESTS: manifests}
        )

    def complete(self) -> Iterator[Manifest]:
        """Manifests that a trial can continue from, the furthest first."""
        for manifest in self.manifests.values():
            if manifest.checkpoint and not manifest.checkpoint.keys() & self.sizes.keys():
                continue  # dropped, as a later one was there: nothing is torn
            if not self._whole(manifest.checkpoint):
                log.warning("skipped a torn checkpoint: %s, task %d", self.files.name(self.folder), manifest.task)
            elif self._line(manifest) is not None:
                yield manifest

    def rows(self, upto: Manifest | None = None) -> list[TaskRow]:
        """The rows of one unbroken line of work, by task: that of ``upto``, else the one that got furthest."""
        rows = {row.task: row for manifest in self._furthest(upto) for row in self._read_rows(manifest)}
        return [rows[task] for task in sorted(rows)]

    def times(self) -> dict[int, float]:
        """When each task of :meth:`rows` was stored, in seconds since the epoch."""
        return {manifest.task: manifest.written for manifest in self._furthest(None)}

    def _furthest(self, upto: Manifest | None) -> list[Manifest]:
        lines = map(self._line, [upto] if upto else self.manifests.values())
        return next((line for line in lines if line is not None), [])

    def seconds(self) -> dict[str, float]:
        """Seconds over all attempts, by cost column: work that was done twice was paid twice."""
        whole = (manifest for manifest in self.manifests.values() if self._whole(manifest.rows))
        costs = [row.cost for manifest in whole for row in self._read_rows(manifest)]
        names = ("wall_seconds", "cpu_seconds", "evaluation_seconds")
        return {name: float(sum(getattr(cost, name) for cost in costs)) for name in names}

    def _read_rows(self, manifest: Manifest) -> list[TaskRow]:
        if manifest.key not in self._rows_read:
            names = [f"{self.folder}/{path}" for path in manifest.rows]
            tables = (schema.from_parquet(self.files.read(name) or b"", self.files.name(name)) for name in names)
            self._rows_read[manifest.key] = [row for table in tables for row in schema.rows_of(table)]
        return self._rows_read[manifest.key]

    def _whole(self, files: Mapping[str, Seal]) -> bool:
        return all(self.sizes.get(path) == size for path, (size, _) in files.items())

    def _line(self, last: Manifest) -> list[Manifest] | None:
        """The manifests from the trial's start to ``last``, each continuing the one before; None where one is torn."""
        line = [last]
        while line[-1].parent is not None:
            before = self.manifests.get(line[-1].parent)
            if before is None:
                log.warning("%s: what task %d continues is lost", self.files.name(self.folder), line[-1].task)
                return None
            line.append(before)
        torn = [path for manifest in line for path in manifest.rows if not self._whole({path: manifest.rows[path]})]
        if torn:
            log.warning("skipped torn rows: %s", self.files.name(f"{self.folder}/{torn[0]}"))
            return None
        return line[::-1]


def _unpacked(data: bytes, name: str) -> tuple[dict[Key, Manifest], dict[Key, list[TaskRow]]]:
    """The manifests of :data:`COMPACT`, and their rows.

    Raises:
        TornFile: the bytes are not all there.
    """
    table = schema.from_parquet(data, name)
    try:
        manifests = [Manifest.of(stored) for stored in json.loads(table.schema.metadata[_MANIFESTS.encode()])]
        owners = table[_OWNER].to_pylist()
    except (KeyError, TypeError, ValueError) as error:
        raise TornFile(
            f"{name}: no history of a trial ({error!r}); delete this trial's folder and run again"
        ) from error
    rows: dict[Key, list[TaskRow]] = {manifest.key: [] for manifest in manifests}
    for owner, row in zip(owners, schema.rows_of(table), strict=True):
        rows[manifests[owner].key].append(row)
    return {manifest.key: manifest for manifest in manifests}, rows


def seals(files: Mapping[str, bytes]) -> dict[str, Seal]:
    """Size and digest of each file's bytes."""
    return {name: (len(data), digest(data)) for name, data in files.items()}
