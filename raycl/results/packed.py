"""A pack read as the results folder that it was made of, as far as it goes: two files stand for all of its data set."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raycl.errors import StoreError, TornFile
from raycl.results import schema
from raycl.results.collected import COLLECTED, file_name
from raycl.results.files import Files
from raycl.results.store import HEAD, ResultsFolder
from raycl.spec.entry import entry_key
from raycl.spec.sweep import SweepSpec

CELLS_FILE, TRIALS_FILE, SWEEP = "cells.parquet", "trials.parquet", b"raycl.sweep"
PACKED_KINDS = ("cells", "inside", "online", "measures", "choices", "tested")
"""Each has a file of its name where the trials hold any."""


class Pack(ResultsFolder):
    """What ``raycl pack`` has written, in the place of the folder: it is read alone, and nothing goes on in it."""

    def __init__(self, files: Files) -> None:
        stored = _trials(files)
        head = json.loads((stored.schema.metadata or {}).get(SWEEP, b"{}"))
        if not {"name", "hash", "text"} <= head.keys():
            raise StoreError(f"{files.name(TRIALS_FILE)}: tells of no sweep; `raycl pack` writes the file anew")
        held = {file_name(kind): files.read(f"{kind}.parquet") for kind in PACKED_KINDS}
        names = stored["trial"].to_pylist()
        notes = json.dumps({"verdicts": dict.fromkeys(names, ""), "sizes": {}})
        held[file_name("trials")] = schema.to_parquet(stored, notes={COLLECTED: notes})
        for name, spec in zip(names, stored["spec"].to_pylist(), strict=True):
            held |= {f"trials/{name}/spec.json": spec.encode(), f"trials/{name}/verdict.json": b"{}"}
        read = {path: data for path, data in held.items() if data is not None}
        super().__init__(_Held(files, read), {"sweep": json.dumps(head), **head})


def is_pack(files: Files) -> bool:
    """Whether a folder is what ``raycl pack`` has written."""
    return not files.exists(HEAD) and files.exists(TRIALS_FILE)


def asking(trial: Mapping[str, Any], sweep: SweepSpec) -> Sequence[str]:
    """Keys of the entries that ask for a packed trial; older packs name the method that ran it first, and its variant,
    of whatever file."""
    entries: Sequence[str] | None = trial.get("entries")
    variant = trial["variant"] if len(sweep.variants) > 1 else ""
    return [entry_key(variant, trial["alias"])] if entries is None else entries


def _trials(files: Files) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(files.read(TRIALS_FILE) or b""))
    except (pa.ArrowException, OSError) as error:
        raise TornFile(
            f"{files.name(TRIALS_FILE)}: no complete Parquet file ({error}); pack the results anew"
        ) from error


class _Held(Files):
    """Files that are held in memory, under the name of the pack."""

    def __init__(self, files: Files, held: Mapping[str, bytes]) -> None:
        super().__init__(files.uri, files.filesystem, files.root)
        self.local = None
        self._contents = held

    def sizes(self, relative: str, recursive: bool = True) -> dict[str, int]:
        below = f"{relative}/" if relative else ""
        found = {path.removeprefix(below): data for path, data in self._contents.items() if path.startswith(below)}
        return {path: len(data) for path, data in found.items() if recursive or "/" not in path}

    def children(self, relative: str) -> list[str]:
        return sorted({path.split("/")[0] for path in self.sizes(relative)})

    def exists(self, relative: str) -> bool:
        return relative in self._contents

    def existing(self, relatives: Sequence[str]) -> list[str]:
        return [path for path in relatives if path in self._contents]

    def read(self, relative: str) -> bytes | None:
        return self._contents.get(relative)

    def opened(self, relative: str) -> pa.NativeFile:
        return pa.BufferReader(self._contents[relative])

    def write(self, relative: str, data: bytes) -> None:
        raise StoreError(f"{self.name('')}: a pack is read alone (got {relative} to write); give the results folder")

    def write_once(self, relative: str, data: bytes) -> bool:
        self.write(relative, data)
        return False
