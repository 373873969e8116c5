"""A mirror of the search for Optuna's dashboard. Nothing reads it back, and a mirror that breaks costs nothing."""

from __future__ import annotations

import logging
import math

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from raycl.distributed.ledger import Record
from raycl.distributed.suggestions import STATES, optuna_space
from raycl.results.store import Results
from raycl.spec.sweep import SweepSpec

FILE = "optuna-journal.log"
log = logging.getLogger(__name__)


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
            log.warning("no Optuna study for the dashboard: %s", error)
            self._path = None

    def _study(self, key: str) -> optuna.Study:
        if key not in self._studies:
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            storage = JournalStorage(JournalFileBackend(str(self._path)))
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
