"""The results folder of a sweep: the truth from which everything continues.

    sweep.yaml                              the sweep file, as it was given
    report.html                             what came of it, for people, once a run has ended
    sweep.json                              its name, its hash, and the hashes of pretrained weights
    history/0000.json                       the sweep files that the folder had before, as they were
    lease.json                              who drives it at present
    folder.json                             the folder's own name, for tracking servers that hold several of one sweep
    trials/<hash>/spec.json                 the trial's resolved specification
    trials/<hash>/attempts/0000.json        who ran it, and when
    trials/<hash>/rows/0005-0000.parquet    what task 5 left, written by attempt 0
    trials/<hash>/ckpt/0005-0000/<file>     its checkpoint
    trials/<hash>/manifests/0005-0000.json  names, sizes and digests of both, and what they continue; written last
    trials/<hash>/verdict.json              how it ended
    trials/<hash>/history.parquet           rows and manifests of a finished trial, in place of the files above
    trials/<hash>/traceback.txt             where it failed, if it did
    data/cells/all.parquet                  the sweep's data set: the matrices of all trials that have ended
    data/trials/all.parquet                 their metrics, cost and hyperparameters
    data/inside/all.parquet                 accuracies while tasks were learned, where that was asked for
    data/online/all.parquet                 examples that were predicted before they were learned, alike
    data/measures/all.parquet               further numbers of each task, where there are any
    data/tested/all.parquet                 matrices on test data, of the trials of a table
    data/README.md                          how other programs read them
    parts/<kind>/<hash>.parquet             a trial's share of these files, till it is taken in

Files of tasks are immutable and carry their attempt, so a worker that was given up but lives on destroys nothing.
Readers trust what a manifest names and verify it. What is called otherwise (``Thumbs.db``, a copy that a file manager
made) is not ours, and left alone.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from raycl.errors import StoreError, TornFile
from raycl.results.collected import collect, held, sizes_of
from raycl.results.files import Files, digest, dump_json
from raycl.results.lease import Lease
from raycl.results.trial_store import TrialStore, part_names
from raycl.spec.trial import TrialSpec

HEAD, SWEEP_FILE, REPORT = "sweep.json", "sweep.yaml", "report.html"
FIRST_FORMAT, FOLDER_FORMAT = 1, 2
"""The first kept the sweep file as a string in its head."""
IDENTITY = "folder.json"
_TRIAL = re.compile(r"[0-9a-f]{16}")
log = logging.getLogger(__name__)


class ResultsFolder:
    """A sweep's folder."""

    def __init__(self, files: Files, head: Mapping[str, Any]) -> None:
        self.files = files
        self.sweep_json: str = head["sweep"]
        self.sweep_hash: str = head["hash"]
        self.name: str = head["name"]

    @classmethod
    def create(
        cls, uri: str | Path, sweep_json: str, sweep_hash: str, grow: Callable[[ResultsFolder], None] | None = None
    ) -> ResultsFolder:
        """Create the folder, or continue in it.

        Args:
            sweep_json: of :meth:`raycl.spec.sweep.SweepSpec.dumps`.
            grow: asked where the folder has another sweep till now, as :func:`raycl.results.growth.grow`.

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
                if grow is None:
                    raise StoreError(
                        f"results folder {files.name('')} belongs to sweep {held['name']!r} ({held['hash']}), not to "
                        f"sweep {name!r} ({sweep_hash}) as it stands now; choose another results folder"
                    )
                grow(cls(files, held))
            _keep_former(files, held, text)
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

    def collect(self) -> None:
        """Take the parts of trials that have ended into the data set, one file for each kind of table.

        For the driver that holds the lease, also while trials run.

        Raises:
            TornFile: a part is damaged or missing, or its trial goes on just now.
        """
        collect(self.files, self.ended())

    def repair(self) -> Sequence[str]:
        """Write damaged parts of the data set again from the task rows; returns the hashes of the trials repaired.

        For the driver that holds the lease.

        Raises:
            TornFile: the rows of a finished trial are damaged too.
        """
        ended = self.ended()  # before the sizes: what ends in between is whole
        sizes = sizes_of(self.files)
        collected = held(self.files, sizes)
        with ThreadPoolExecutor(8) as pool:  # on object stores the time is all latency
            verdicts = list(pool.map(lambda name: self.files.read(f"trials/{name}/verdict.json"), ended))

        def whole(name: str, verdict: bytes) -> bool:
            if not sizes.keys() & set(part_names("trials", name)) and name in collected:
                return collected[name] == digest(verdict)
            return _complete(json.loads(verdict), sizes)

        torn = [name for name, data in zip(ended, verdicts, strict=True) if data and not whole(name, data)]
        for name in torn:
            log.warning("%s: a result of trial %s was damaged; writing it again", self.files.name(""), name)
            self.trial(self._spec(name)).rewrite_parts()
        return torn


def _keep_former(files: Files, held: Mapping[str, Any], text: str | None) -> None:
    """Keep the sweep file that a folder had till now, where another text takes its place."""
    former = json.loads(held["sweep"])
    if "text" in former and former["text"] != text:
        number = len(files.sizes("history"))
        files.write(f"history/{number:04d}.json", dump_json({"hash": held["hash"], **former}))


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
    """Whether the parts that a verdict names are whole; ``sizes`` lists all parts."""
    return all(sizes.get(part) == size for part, (size, _) in record["parts"].items())
