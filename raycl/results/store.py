"""The results folder of a sweep: the truth from which everything continues.

    sweep.yaml                              the sweep file, as it was given
    sweep.json                              its name, its hash, and the hashes of pretrained weights
    lease.json                              who drives it at present
    folder.json                             the folder's own name, for tracking servers that hold several of one sweep
    trials/<hash>/spec.json                 the trial's resolved specification
    trials/<hash>/attempts/0000.json        who ran it, and when
    trials/<hash>/rows/0005-0000.parquet    what task 5 left, written by attempt 0
    trials/<hash>/ckpt/0005-0000/<file>     its checkpoint
    trials/<hash>/manifests/0005-0000.json  names, sizes and digests of both, and what they continue; written last
    trials/<hash>/verdict.json              how it ended
    trials/<hash>/traceback.txt             where it failed, if it did
    data/cells/<hash>.parquet               its matrix, in the sweep's data set
    data/trials/<hash>.parquet              its metrics, cost and hyperparameters

Files of tasks are immutable and carry their attempt, so a worker that was given up but lives on destroys nothing.
Readers trust what a manifest names and verify it. What is called otherwise (``Thumbs.db``, a copy that a file manager
made) is not ours, and left alone.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raycl.errors import StoreError, TornFile
from raycl.matrix import TaskRow, Verdict
from raycl.results import schema
from raycl.results.files import Files, digest, dump_json
from raycl.results.history import History, Manifest, seals
from raycl.results.lease import Lease
from raycl.spec.trial import TrialSpec

HEAD, SWEEP_FILE = "sweep.json", "sweep.yaml"
FIRST_FORMAT, FOLDER_FORMAT = 1, 2
"""The first kept the sweep file as a string in its head."""
IDENTITY = "folder.json"
MOST_TRACEBACK = 200_000
"""Characters of a traceback that are kept, from its end."""
_TRIAL = re.compile(r"[0-9a-f]{16}")
_ATTEMPT = re.compile(r"(\d{4,})\.json")
_CHECKPOINT = re.compile(r"(\d{4,})-\d{4,}")
__all__ = ["Manifest", "ResultsFolder", "TrialStore", "Verdict", "traceback_path"]
log = logging.getLogger(__name__)


class ResultsFolder:
    """A sweep's folder."""

    def __init__(self, files: Files, head: Mapping[str, Any]) -> None:
        self.files = files
        self.sweep_json: str = head["sweep"]
        self.sweep_hash: str = head["hash"]
        self.name: str = head["name"]

    @classmethod
    def create(cls, uri: str | Path, sweep_json: str, sweep_hash: str) -> ResultsFolder:
        """Create the folder, or continue in it.

        Args:
            sweep_json: of :meth:`raycl.spec.sweep.SweepSpec.dumps`.

        Raises:
            StoreError: the folder belongs to another sweep, or cannot be written.
        """
        files = Files.at(uri)
        told: dict[str, Any] = json.loads(sweep_json)
        name, text = str(told.get("name", "")), told.pop("text", None)
        head = {"format": FOLDER_FORMAT, "name": name, "hash": sweep_hash, "sweep": told}
        if not files.write_once(HEAD, dump_json(head)):
            held = _head(files)
            if held["hash"] != sweep_hash:
                raise StoreError(
                    f"results folder {files.name('')} belongs to sweep {held['name']!r} ({held['hash']}), not to sweep "
                    f"{name!r} ({sweep_hash}) as it stands now; choose another results folder"
                )
            if files.read_json(HEAD) != head:  # keys that change no trial may change; the folder keeps the newest
                files.write(HEAD, dump_json(head))
        if text is not None and files.read(SWEEP_FILE) != text.encode():
            files.write(SWEEP_FILE, text.encode())
        return cls(files, {**head, "sweep": sweep_json})

    @classmethod
    def open(cls, uri: str | Path) -> ResultsFolder:
        """Open a folder that a sweep has left.

        Raises:
            StoreError: there is none.
        """
        files = Files.at(uri)
        return cls(files, _head(files))

    @property
    def uri(self) -> str:
        return self.files.uri

    @property
    def identity(self) -> str:
        """What this folder is called in other places, as a tracking server; made once, and kept when it is renamed."""
        return str(self.write_json_once(IDENTITY, {"id": uuid.uuid4().hex})["id"])

    def trial(self, spec: TrialSpec) -> TrialStore:
        return TrialStore(self.files, spec, self.name)

    def trial_hashes(self) -> Sequence[str]:
        """Names of all trials that have begun, sorted."""
        return self._with("spec.json")

    def ended(self) -> Sequence[str]:
        """Names of all trials that have a verdict, sorted."""
        return self._with("verdict.json")

    def _with(self, file: str) -> Sequence[str]:
        ours = [name for name in self.files.children("trials") if _TRIAL.fullmatch(name)]
        names = self.files.existing([f"trials/{name}/{file}" for name in ours])
        return [name.split("/")[1] for name in names]

    def specs(self) -> Iterator[TrialSpec]:
        """Specifications of all trials that have begun, by hash."""
        for name in self.trial_hashes():
            yield self._spec(name)

    def _spec(self, name: str) -> TrialSpec:
        path = f"trials/{name}/spec.json"
        try:
            return TrialSpec.loads(self.files.read(path) or b"")
        except ValueError as error:  # pydantic's, of several lines
            raise TornFile(
                f"{self.files.name(path)}: not a complete specification; delete this trial's folder and run the sweep "
                "again, which repeats the trial"
            ) from error

    def read_json(self, relative: str) -> dict[str, Any] | None:
        """A JSON object of the folder; None where it is absent."""
        value: dict[str, Any] | None = self.files.read_json(relative)
        return value

    def write_json_once(self, relative: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Write a decision down unless it is there already; returns what is stored, the first writer's."""
        self.files.write_once(relative, dump_json(value))
        stored: dict[str, Any] = self.files.read_json(relative)
        return stored

    def lease(self, force: bool = False) -> Lease:
        """A context manager that holds the folder against other drivers.

        Raises:
            FolderInUse: on entering, while another driver's heartbeat is fresh.
        """
        return Lease(self.files, force)

    def repair(self) -> Sequence[str]:
        """Write damaged parts of the data set again from the task rows; returns the hashes of the trials repaired.

        For the driver that holds the lease.

        Raises:
            TornFile: the rows of a finished trial are damaged too.
        """
        ended = self.ended()  # before the sizes: what ends in between is whole
        sizes = self.files.sizes("data")
        with ThreadPoolExecutor(8) as pool:  # on object stores the time is all latency
            records = list(pool.map(lambda name: self.files.read_json(f"trials/{name}/verdict.json"), ended))
        torn = [name for name, record in zip(ended, records, strict=True) if record and not _complete(record, sizes)]
        for name in torn:
            log.warning("%s: a result of trial %s was damaged; writing it again", self.files.name(""), name)
            self.trial(self._spec(name)).rewrite_parts()
        return torn


class TrialStore:
    """What one trial leaves. One object serves one attempt."""

    def __init__(self, files: Files, spec: TrialSpec, sweep: str) -> None:
        self.spec = spec
        self._files = files
        self._sweep = sweep
        self._folder = f"trials/{spec.hash}"
        self._continued: tuple[int, int] | None = None

    # -- an attempt --------------------------------------------------------------------------------------------

    def begin(self) -> int:
        """Register an attempt: its number is one more than any seen."""
        self._files.write_once(f"{self._folder}/spec.json", (self.spec.dumps() + "\n").encode())
        self._continued = None
        names = self._files.children(f"{self._folder}/attempts")
        ours = (found for found in map(_ATTEMPT.fullmatch, names) if found)
        attempt = max((int(found[1]) for found in ours), default=-1) + 1
        record = dump_json({"host": socket.gethostname(), "pid": os.getpid(), "began": time.time()})
        while not self._files.write_once(f"{self._folder}/attempts/{attempt:04d}.json", record):
            attempt += 1
        return attempt

    def began(self) -> float:
        """When the first attempt began, in seconds since the epoch; 0 before."""
        record = self._files.read_json(f"{self._folder}/attempts/0000.json")
        return 0.0 if record is None else float(record["began"])

    def write_task(
        self,
        attempt: int,
        task: int,
        rows: Sequence[TaskRow],
        checkpoint: Mapping[str, bytes],
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Store what a task left. It counts from the moment its manifest is there, which is written last."""
        stem = f"{task:04d}-{attempt:04d}"
        table = {f"rows/{stem}.parquet": schema.to_parquet(schema.rows_table(rows))}
        states = {f"ckpt/{stem}/{name}": data for name, data in checkpoint.items()}
        for name, data in (table | states).items():
            self._files.write(f"{self._folder}/{name}", data)
        manifest = Manifest(task, attempt, self._continued, seals(table), seals(states), dict(extra or {}), time.time())
        self._files.write(f"{self._folder}/manifests/{stem}.json", dump_json(asdict(manifest)))
        self._continued = manifest.key
        self._drop_checkpoints(before=task - 1)

    def latest(self) -> Manifest | None:
        """The highest complete manifest: its checkpoint is there, and so are the rows of all it continues."""
        return next(self.history().complete(), None)

    def read_checkpoint(self, manifest: Manifest) -> dict[str, bytes]:
        """The verified files of a checkpoint by name. What this object writes afterwards continues it.

        Raises:
            TornFile: a file is missing or not what the manifest says.
        """
        files = {}
        for path, (_, sha256) in manifest.checkpoint.items():
            data = self._files.read(f"{self._folder}/{path}")
            if data is None or digest(data) != sha256:
                raise TornFile(f"{self._files.name(f'{self._folder}/{path}')}: does not match its manifest")
            files[path.split("/", 2)[2]] = data
        self._continued = manifest.key
        return files

    def restore(self) -> tuple[Manifest, dict[str, bytes]] | None:
        """:meth:`latest` and its checkpoint; where that cannot be read, the one before. None: from the start."""
        for manifest in self.history().complete():
            try:
                return manifest, self.read_checkpoint(manifest)
            except TornFile as error:
                log.warning("skipped a checkpoint: %s", error)
        return None

    def rows(self, upto: Manifest | None = None) -> list[TaskRow]:
        """The rows of one unbroken line of work, by task: that of ``upto``, else the one that got furthest."""
        return self.history().rows(upto)

    def history(self) -> History:
        """The trial's folder as it is now."""
        return History.read(self._files, self._folder)

    # -- the end -----------------------------------------------------------------------------------------------

    def finish(self, verdict: Verdict, provenance: Mapping[str, Any], traceback: str = "") -> None:
        """Write the trial's parts of the data set, then its verdict. Finished trials drop their checkpoints,
        unless their specification says that they stay.

        Args:
            traceback: of a failure; its end is kept.

        Raises:
            TornFile: the trial is said to have finished, but rows of its tasks are lost.
        """
        parts = self._write_parts(verdict, provenance)
        if traceback:
            self._files.write(traceback_path(self.spec.hash), traceback[-MOST_TRACEBACK:].encode(errors="replace"))
        record = {"verdict": asdict(verdict), "provenance": dict(provenance), "parts": seals(parts)}
        self._files.write(f"{self._folder}/verdict.json", dump_json(record))
        if verdict.status == "finished" and not self.spec.keep_checkpoint:
            self._files.delete_folder(f"{self._folder}/ckpt")

    def verdict(self) -> Verdict | None:
        """How the trial ended; None while it has not."""
        record = self._files.read_json(f"{self._folder}/verdict.json")
        return None if record is None else Verdict(**record["verdict"])

    def traceback(self) -> str:
        """Where the trial failed; empty where it did not, or where nothing was stored."""
        return (self._files.read(traceback_path(self.spec.hash)) or b"").decode(errors="replace")

    def seal(self) -> str:
        """A digest of the verdict and the parts; empty before the end. It changes when the trial ends anew."""
        data = self._files.read(f"{self._folder}/verdict.json")
        return "" if data is None else digest(data)

    def reopen(self) -> None:
        """Forget the verdict, so that the trial goes on from its last checkpoint (a retry, or other cut-offs)."""
        self._files.delete(f"{self._folder}/verdict.json")  # first: readers leave out parts without a verdict
        for part in (*_part_names(self.spec.hash), traceback_path(self.spec.hash)):
            self._files.delete(part)

    def restart(self) -> None:
        """Forget all that the trial has left, so that it runs again from its beginning."""
        self.reopen()
        for folder in ("manifests", "rows", "ckpt"):  # rows and checkpoints mean nothing without their manifests
            self._files.delete_folder(f"{self._folder}/{folder}")

    def rewrite_parts(self) -> None:
        """Write the parts of the data set again, from the task rows."""
        record = self._files.read_json(f"{self._folder}/verdict.json")
        if record is not None:
            self.finish(Verdict(**record["verdict"]), record["provenance"])

    def _write_parts(self, verdict: Verdict, provenance: Mapping[str, Any]) -> dict[str, bytes]:
        history = self.history()
        rows = history.rows()
        done = max((row.task for row in rows), default=-1)
        if verdict.status == "finished" and done < verdict.task:
            raise TornFile(
                f"{self._files.name(self._folder)}: rows of tasks {done + 1} to {verdict.task} are lost; "
                "delete this trial's folder and run the sweep again"
            )
        ending = {name: getattr(verdict, name) for name in ("status", "reason", "value")}
        trial = schema.trials_table(self._sweep, self.spec, ending, provenance, rows, history.seconds())
        cells = schema.cells_table(self.spec.hash, rows)
        encoded = schema.to_parquet(cells), schema.to_parquet(trial, compression="none")
        parts = dict(zip(_part_names(self.spec.hash), encoded, strict=True))
        for part, data in parts.items():
            self._files.write(part, data)  # the same rows give the same bytes, so replacing a part loses nothing
        return parts

    def _drop_checkpoints(self, before: int) -> None:
        """Two checkpoints stay: the newest, and the one before it in case the newest cannot be read."""
        for name in self._files.children(f"{self._folder}/ckpt"):
            found = _CHECKPOINT.fullmatch(name)
            if found and int(found[1]) < before:
                self._files.delete_folder(f"{self._folder}/ckpt/{name}")


def traceback_path(trial: str) -> str:
    """Where a trial's traceback lies in its results folder."""
    return f"trials/{trial}/traceback.txt"


def _head(files: Files) -> dict[str, Any]:
    """Name, hash and sweep of a folder; the sweep as :meth:`raycl.spec.sweep.SweepSpec.loads` takes it."""
    try:
        head = files.read_json(HEAD)
    except TornFile:
        head = {}
    if head is None:
        raise StoreError(f"{files.name('')}: no results folder of raycl ({HEAD} is missing); give the path of one")
    if not isinstance(head, dict) or not {"format", "name", "hash", "sweep"} <= head.keys():
        raise TornFile(
            f"{files.name(HEAD)}: damaged; delete this file and give `raycl run` the sweep file with this "
            "results folder again: the trials that are there count"
        )
    if head["format"] not in (FIRST_FORMAT, FOLDER_FORMAT):
        raise StoreError(
            f"{files.name('')}: format {head['format']}, this raycl reads {FIRST_FORMAT} and {FOLDER_FORMAT}; run it "
            "anew, or read it with a newer raycl"
        )
    return head if head["format"] == FIRST_FORMAT else {**head, "sweep": json.dumps(_with_text(head["sweep"], files))}


def _with_text(told: Mapping[str, Any], files: Files) -> dict[str, Any]:
    text = files.read(SWEEP_FILE)
    if text is None and "file" in told:
        raise TornFile(
            f"{files.name(SWEEP_FILE)}: missing; give `raycl run` the sweep file with this results folder again: the "
            "trials that are there count"
        )
    return {**told, **({} if text is None else {"text": text.decode(errors="replace")})}


def _complete(record: Mapping[str, Any], sizes: Mapping[str, int]) -> bool:
    """Whether the parts that a verdict names are whole; ``sizes`` lists the folder ``data``."""
    return all(sizes.get(part.removeprefix("data/")) == size for part, (size, _) in record["parts"].items())


def _part_names(trial: str) -> tuple[str, str]:
    return f"data/cells/{trial}.parquet", f"data/trials/{trial}.parquet"
