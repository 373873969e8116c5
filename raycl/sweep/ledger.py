"""What the results folder says of each trial, read once, and again only after the trial has run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from raycl.matrix import Curve, Verdict
from raycl.results.objectives import costs_of_rows
from raycl.results.outcomes import ASHA, Record
from raycl.results.store import ResultsFolder
from raycl.spec.sweep_options import DEFAULT_METRIC
from raycl.spec.trial import TrialSpec


class Decided(Protocol):
    """Where suggestions are written down."""

    def read_json(self, relative: str) -> dict[str, Any] | None: ...
    def write_json_once(self, relative: str, value: Mapping[str, Any]) -> dict[str, Any]: ...


class Records(Protocol):
    """What a search asks for: a :class:`Ledger` over a results folder, or a table that answers in its place."""

    @property
    def results(self) -> Decided: ...
    def record(self, spec: TrialSpec) -> Record | None: ...


@dataclass
class Ledger:
    """The trials of a sweep, as its folder holds them.

    Args:
        metric: name of the :class:`raycl.matrix.AccuracyMatrix` method that the search maximises.
        retry_failed: trials that failed before this run count as open.
        on_record: told of every trial that has ended, once per run.
    """

    results: ResultsFolder
    metric: str = DEFAULT_METRIC
    retry_failed: bool = False
    on_record: Callable[[Record], None] = lambda record: None
    _records: dict[str, Record | None] = field(default_factory=dict)
    _ran: set[str] = field(default_factory=set)
    _bring: Callable[[TrialSpec], bool] = lambda spec: False

    def ask(self, bring: Callable[[TrialSpec], bool]) -> None:
        """From now on ask for a trial that has not ended here whether it has been brought from elsewhere."""
        self._bring = bring
        self._records = {name: record for name, record in self._records.items() if record is not None}

    def record(self, spec: TrialSpec) -> Record | None:
        """What is known of an ended trial; None while it has not ended."""
        if spec.hash not in self._records:
            self._records[spec.hash] = self._read(spec)
        return self._records[spec.hash]

    def reopen(self, spec: TrialSpec) -> None:
        """Forget an earlier end of a trial that is about to go on."""
        self._ran.add(spec.hash)
        self._records.pop(spec.hash, None)
        store = self.results.trial(spec)
        if store.verdict() is not None:
            store.reopen()

    def prune(self, spec: TrialSpec) -> None:
        """Write down that ASHA has ended a trial after its last stored task."""
        store = self.results.trial(spec)
        manifest = store.latest()
        if manifest is None or store.verdict() is not None:
            return
        curve = Curve(self.metric)
        curve.add(store.rows(manifest))
        store.finish(Verdict("pruned", ASHA, curve.values.get(manifest.task), manifest.task), manifest.extra)

    def ended_meanwhile(self, spec: TrialSpec) -> bool:
        """Whether a trial that is about to run has ended since it was last looked at."""
        if self._records.get(spec.hash) is not None:
            return False  # known: it goes on under other cut-offs, or is tried again
        self._records.pop(spec.hash, None)
        return self.record(spec) is not None

    def refresh(self, spec: TrialSpec) -> None:
        """Read the trial again when it is asked for next."""
        self._ran.add(spec.hash)
        self._records.pop(spec.hash, None)

    def tasks_learned(self, spec: TrialSpec) -> int:
        """Tasks whose state is stored."""
        manifest = self.results.trial(spec).latest()
        return 0 if manifest is None else manifest.task + 1

    def _read(self, spec: TrialSpec) -> Record | None:
        store = self.results.trial(spec)
        verdict = store.verdict()
        if verdict is None and spec.hash not in self._ran and self._bring(spec):
            verdict = store.verdict()
        if verdict is None or (verdict.status == "failed" and self.retry_failed and spec.hash not in self._ran):
            return None
        rows = store.rows()
        num_tasks = len(rows[0].total) if rows else verdict.task + 1
        curve = Curve(self.metric)
        curve.add(rows)
        record = Record(spec, verdict, curve.values, spec.learned(num_tasks), costs_of_rows(rows))
        self.on_record(record)
        return record
