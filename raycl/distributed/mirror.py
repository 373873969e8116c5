"""A mirror of the search for Optuna's dashboard. Nothing reads it back, and a mirror that breaks costs nothing.

It is called from a thread of its own, as its file may lie on a storage that does not answer.
"""

from __future__ import annotations

import logging
import math
import os
import time
import uuid
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from raycl.distributed.ledger import Record
from raycl.distributed.suggestions import STATES, optuna_space
from raycl.results.store import Results
from raycl.spec.sweep import SweepSpec

FILE = "optuna-journal.log"
LOCK = FILE + ".lock"
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
    """One study per searched entry in a Journal file of a local results folder; trials are added once, by hash."""

    def __init__(self, sweep: SweepSpec, results: Results) -> None:
        self._sweep = sweep
        self._path = None if results.files.local is None else results.files.local / FILE
        self._studies: dict[str, optuna.Study] = {}
        self._known: set[tuple[str, str]] = set()

    def add(self, record: Record) -> None:
        """Add a search trial that has ended."""
        spec = record.spec
        key = f"{spec.variant}/{spec.alias}" if spec.variant else spec.alias
        if self._path is None or spec.phase != "search" or not spec.point:
            return
        try:
            study = self._study(key)
            if (key, spec.hash) not in self._known:
                study.add_trial(self._frozen(key, record))
                self._known.add((key, spec.hash))
        except Exception as error:  # whatever breaks in a mirror must not reach the sweep
            log.warning(
                "no Optuna study for the dashboard: %s cannot be used (%s); delete it, and the next run writes it "
                "again",
                self._path,
                str(error) or type(error).__name__,
            )
            self._path = None

    def _study(self, key: str) -> optuna.Study:
        if key not in self._studies:
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            assert self._path is not None
            storage = JournalStorage(JournalFileBackend(str(self._path), Lock(self._path.with_name(LOCK))))
            name = f"{self._sweep.name}/{key}"
            study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
            self._known |= {(key, trial.user_attrs.get("trial", "")) for trial in study.get_trials(deepcopy=False)}
            self._studies[key] = study
        return self._studies[key]

    def _frozen(self, key: str, record: Record) -> optuna.trial.FrozenTrial:
        value = record.curve.get(record.num_tasks - 1, math.nan)
        state = STATES[record.verdict.status]
        finished = state == TrialState.COMPLETE and not math.isnan(value)
        return optuna.trial.create_trial(
            state=TrialState.FAIL if state == TrialState.COMPLETE and not finished else state,
            params=dict(record.spec.point),
            distributions=optuna_space(self._sweep.entry(key).space),
            value=value if finished else None,
            intermediate_values=dict(record.curve),
            user_attrs={"trial": record.spec.hash, "seed": record.spec.seed, "reason": record.verdict.reason},
        )
