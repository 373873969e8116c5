"""A mirror of the search for Optuna's dashboard. Nothing reads it back, and a mirror that breaks costs nothing.

It is called from a thread of its own, as its file may lie on a storage that does not answer.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from raycl.results.decisions import suggestion_path
from raycl.results.outcomes import Outcome, Record
from raycl.results.store import ResultsFolder
from raycl.results.trackers.optuna_terms import frozen, new_study, optuna_space
from raycl.spec.sweep import Entry, SweepSpec
from raycl.spec.trial import TrialSpec

JOURNAL = "optuna-journal.log"
INDEX = "suggestion"
"""Attribute of a mirrored trial: the suggestion it stands for."""
LOCK = JOURNAL + ".lock"
STALE_SECONDS = 10.0
"""Whoever holds the lock writes a few lines; a lock that stands still for longer belongs to a process that is gone."""
log = logging.getLogger(__name__)


class Lock:
    """For Optuna's journal: a file that only one process can make.

    Optuna's own waits for ever for one that is a link to nowhere, as a kill leaves it in a folder that is moved then.

    A lock is stale where the same file stood there while this process watched; no file's time is compared to a clock.
    """

    def __init__(self, path: Path, patience: float = STALE_SECONDS) -> None:
        self._path = path
        self._patience = patience

    def acquire(self) -> bool:
        """Make the file, in place of a stale one if need be.

        Raises:
            OSError: the folder cannot be written.
        """
        seen, since, pause = None, time.monotonic(), 0.001
        while True:
            try:
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                return True
            except FileExistsError:
                there = self._identity()
            if there != seen:
                seen, since = there, time.monotonic()
            elif time.monotonic() - since >= self._patience:
                self._break()
            time.sleep(pause)
            pause = min(2 * pause, 0.2)

    def release(self) -> None:
        self._path.unlink(missing_ok=True)

    def _identity(self) -> tuple[int, int] | None:
        """Of the file itself, as it may be a link to nowhere."""
        try:
            status = self._path.lstat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _break(self) -> None:
        """Take a stale lock away; of two that do, the second finds it gone."""
        aside = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}")
        try:
            self._path.rename(aside)
            aside.unlink()
        except FileNotFoundError:
            pass


class StudyMirror:
    """One study per searched entry in a Journal file of a local results folder, with a trial per suggestion.

    A trial of the sweep may answer suggestions of several entries, and a suggestion is answered by a trial per search
    seed. So suggestions are mirrored, as the sampler was told of them, and not the trials as they end.
    """

    name = "the mirror for Optuna"
    remedy = ""

    def __init__(self, results: ResultsFolder, sweep: SweepSpec) -> None:
        self._sweep = sweep
        self._costs = sweep.search.costs if sweep.search else ()
        self._results = results
        self._path = None if results.files.local is None else results.files.local / JOURNAL
        self._studies: dict[str, optuna.Study] = {}
        self._known: dict[str, set[int]] = {}
        self._records: dict[str, Record] = {}
        self._refused: dict[tuple[str, int], Outcome] = {}
        self._asked: dict[str, list[tuple[list[TrialSpec], dict[int, float]]]] = {}

    def add(self, record: Record) -> None:
        """Take in a trial that has ended, and mirror the suggestions that it completes."""
        if self._path is None or record.spec.score_on != "validation":
            return
        self._records[record.spec.hash] = record
        self._guarded([entry for entry in self._sweep.entries if entry.strategy == record.spec.strategy])

    def finish(self) -> None:
        """Mirror what is missing: a suggestion may be answered by a trial that had ended before it was made."""
        if self._records:
            self._guarded(self._sweep.entries)

    def _guarded(self, entries: Sequence[Entry]) -> None:
        if self._path is None or self._sweep.search is None:
            return
        try:
            for entry in entries:
                if self._sweep.runs(entry).search:
                    self._catch_up(entry)
        except Exception as error:  # whatever breaks in a mirror must not reach the sweep
            log.warning(
                "no Optuna study for the dashboard: %s cannot be used (%s); delete it, and the next run writes it "
                "again",
                self._path,
                str(error) or type(error).__name__,
            )
            self._path = None

    def _catch_up(self, entry: Entry) -> None:
        for index, (specs, limits) in enumerate(self._suggested(entry)):
            if index in self._known.get(entry.key, ()):
                continue
            outcome = self._refused.get((entry.key, index)) or self._outcome(specs, limits)
            if outcome is None:
                continue
            study = self._study(entry)
            if index not in self._known[entry.key]:
                study.add_trial(self._frozen(entry, index, specs, outcome))
                self._known[entry.key].add(index)

    def _suggested(self, entry: Entry) -> list[tuple[list[TrialSpec], dict[int, float]]]:
        """The trials and cut-offs of each suggestion that is written down; each file is read once."""
        assert self._sweep.search is not None
        found = self._asked.setdefault(entry.key, [])
        while (stored := self._results.read_json(suggestion_path(entry, len(found)))) is not None:
            seeds, point = self._sweep.search.runs, stored["point"]
            limits = {int(task): float(value) for task, value in stored["cutoffs"].items()}
            if reason := stored.get("refused"):
                self._refused[entry.key, len(found)] = Outcome(point, "failed", reason=reason)
            specs = [self._sweep.trial(entry, point, seed, "search") for seed in seeds]
            earlier = next((carried for asked, carried in found if asked[0].hash == specs[0].hash), limits)
            found.append((specs, earlier))  # the first suggestion of a trial decides its cut-offs
        return found

    def _outcome(self, specs: Sequence[TrialSpec], limits: Mapping[int, float]) -> Outcome | None:
        """How a suggestion ended; None while that is not known."""
        records = [self._records[spec.hash] for spec in specs if spec.hash in self._records]
        verdicts = [verdict for verdict in (record.under(limits) for record in records) if verdict is not None]
        if len(verdicts) < len(specs):
            return None
        curves, costs = [record.curve_under(limits) for record in records], [record.costs for record in records]
        return Outcome.of(specs[0].point, verdicts, curves, costs)

    def _study(self, entry: Entry) -> optuna.Study:
        if entry.key not in self._studies:
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            assert self._path is not None
            storage = JournalStorage(JournalFileBackend(str(self._path), Lock(self._path.with_name(LOCK))))
            name = f"{self._sweep.name}/{entry.key}"
            study = new_study(self._costs, storage=storage, study_name=name, load_if_exists=True)
            mirrored = [trial.user_attrs.get(INDEX) for trial in study.get_trials(deepcopy=False)]
            other = len(study.directions) != 1 + len(self._costs)  # the folder went on with other objectives
            if other or None in mirrored:  # an earlier raycl mirrored trials, under the alias that ran them
                optuna.delete_study(study_name=name, storage=storage)
                study, mirrored = new_study(self._costs, storage=storage, study_name=name), []
            self._known[entry.key] = set(mirrored)
            self._studies[entry.key] = study
        return self._studies[entry.key]

    def _frozen(
        self, entry: Entry, index: int, specs: Sequence[TrialSpec], outcome: Outcome
    ) -> optuna.trial.FrozenTrial:
        told = frozen(outcome, optuna_space(entry.space), self._costs)
        told.user_attrs = {
            INDEX: index,
            "trials": [spec.hash for spec in specs],
            "seeds": [spec.run_seeds.told for spec in specs],
            "reason": outcome.reason,
        }
        return told
