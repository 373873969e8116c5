"""What one trial leaves in its results folder: the rows and states of its tasks, and its parts of the data set."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from raycl.errors import TornFile
from raycl.matrix import TaskRow, Verdict
from raycl.results import schema
from raycl.results.choices import choices_table
from raycl.results.files import Files, digest, dump_json
from raycl.results.history import COMPACT, History, Manifest, seals
from raycl.spec.evaluation import EvaluationConfig
from raycl.spec.trial import TrialSpec

DATA_PARTS = ("cells", "trials", "inside", "online", "measures", "choices", "tested")
"""Of the data set; beside the first two only where trials measured inside tasks, had further numbers of each, or were
of a table."""
DATA_FOLDER, PARTS_FOLDER = "data", "parts"
"""Folders of the data set, and of what single trials have left for it."""
MOST_TRACEBACK = 200_000
"""Characters of a traceback that are kept, from its end."""
EVERY_CELL = {"search": "all", "tasks": "all"}
"""What trials measured before they could be asked for less; their verdicts do not say so."""
_SOME = {
    "inside": schema.inside_table,
    "online": schema.online_table,
    "measures": schema.measures_table,
    "choices": choices_table,
    "tested": schema.tested_table,
}
"""Parts that not every trial has, and what makes them of its rows."""
_ATTEMPT = re.compile(r"(\d{4,})\.json")
_CHECKPOINT = re.compile(r"(\d{4,})-\d{4,}")
log = logging.getLogger(__name__)


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
        """Register an attempt: its number is one more than any seen.

        Rows that were measured for a question which needs fewer cells are forgotten.
        """
        written = (self.spec.dumps() + "\n").encode()
        if not self._files.write_once(f"{self._folder}/spec.json", written):
            held = self._held()
            if held != self.spec.evaluation:
                if held is not None and not held.covers(self.spec.evaluation, self.spec.learned(self._num_tasks())):
                    self.restart()
                self._files.write(f"{self._folder}/spec.json", written)
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
        """Write the trial's parts of the data set, then its verdict.

        A finished trial keeps its rows in one file, and drops its checkpoints unless its specification says that they
        stay; others may go on, and are left as they are. Readers find each row in the new file before the old ones go.

        Args:
            traceback: of a failure; its end is kept.

        Raises:
            TornFile: the trial is said to have finished, but rows of its tasks are lost.
        """
        history = self.history()
        parts = self._write_parts(history, verdict, provenance)
        if traceback:
            self._files.write(traceback_path(self.spec.hash), traceback[-MOST_TRACEBACK:].encode(errors="replace"))
        dropped: list[str] = []
        if verdict.status == "finished":
            self._files.write(f"{self._folder}/{COMPACT}", history.compact())
            dropped = ["manifests", "rows", *([] if self.spec.keep_checkpoint else ["ckpt"])]
        record = {"verdict": asdict(verdict), "provenance": dict(provenance), "parts": seals(parts)}
        record["evaluation"] = self.spec.evaluation.model_dump(mode="json")
        self._files.write(f"{self._folder}/verdict.json", dump_json(record))
        for folder in dropped:
            self._files.delete_folder(f"{self._folder}/{folder}")

    def verdict(self) -> Verdict | None:
        """How the trial ended; None while it has not, or where it lacks cells that are asked for."""
        record = self._files.read_json(f"{self._folder}/verdict.json")
        if record is None:
            return None
        held = EvaluationConfig.model_validate_json(json.dumps(record.get("evaluation", EVERY_CELL)))
        num_tasks = record["provenance"].get("num_tasks") or 0
        covered = held.covers(self.spec.evaluation, self.spec.learned(num_tasks))
        return Verdict(**record["verdict"]) if covered else None

    def provenance(self) -> dict[str, Any]:
        """What its verdict says of where the numbers come from; empty before the end."""
        record = self._files.read_json(f"{self._folder}/verdict.json")
        return {} if record is None else dict(record["provenance"])

    def _held(self) -> EvaluationConfig | None:
        """What the stored rows were measured for; None where that cannot be read."""
        try:
            return TrialSpec.loads(self._files.read(f"{self._folder}/spec.json") or b"").evaluation
        except ValueError:
            return None

    def _num_tasks(self) -> int:
        """Tasks of the stream; 0 before the first row."""
        rows = self.rows()
        return len(rows[0].total) if rows else 0

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
        parts = [name for kind in DATA_PARTS for name in part_names(kind, self.spec.hash)]
        for part in (*parts, traceback_path(self.spec.hash)):
            self._files.delete(part)

    def restart(self) -> None:
        """Forget all that the trial has left, so that it runs again from its beginning."""
        self.reopen()
        self._files.delete(f"{self._folder}/{COMPACT}")
        for folder in ("manifests", "rows", "ckpt"):  # rows and checkpoints mean nothing without their manifests
            self._files.delete_folder(f"{self._folder}/{folder}")

    def rewrite_parts(self) -> None:
        """Write the parts of the data set again, from the task rows."""
        record = self._files.read_json(f"{self._folder}/verdict.json")
        if record is not None:
            self.finish(Verdict(**record["verdict"]), record["provenance"])

    def _write_parts(self, history: History, verdict: Verdict, provenance: Mapping[str, Any]) -> dict[str, bytes]:
        rows = history.rows()
        done = max((row.task for row in rows), default=-1)
        if verdict.status == "finished" and done < verdict.task:
            raise TornFile(
                f"{self._files.name(self._folder)}: rows of tasks {done + 1} to {verdict.task} are lost; "
                "delete this trial's folder and run the sweep again"
            )
        ending = {name: getattr(verdict, name) for name in ("status", "reason", "value")}
        trial = schema.trials_table(self._sweep, self.spec, ending, provenance, rows, history.seconds())
        parts = {
            part_name("cells", self.spec.hash): schema.to_parquet(schema.cells_table(self.spec.hash, rows)),
            part_name("trials", self.spec.hash): schema.to_parquet(trial, compression="none"),
        }
        for kind, table in _SOME.items():
            found = table(self.spec.hash, rows)
            if found.num_rows:
                parts[part_name(kind, self.spec.hash)] = schema.to_parquet(found)
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


def part_name(kind: str, trial: str) -> str:
    """Where a trial's part of the data set lies till it is taken in; ``kind`` is one of :data:`DATA_PARTS`."""
    return f"{PARTS_FOLDER}/{kind}/{trial}.parquet"


def part_names(kind: str, trial: str) -> tuple[str, str]:
    """Where such a part may lie: earlier versions of raycl had it in the data set itself."""
    return part_name(kind, trial), f"{DATA_FOLDER}/{kind}/{trial}.parquet"
