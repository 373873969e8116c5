"""A mirror of the results in MLflow: one parent run per sweep, a child run per trial.

The results folder is the truth. The mirror is written from it, by one thread of the driver or by :func:`sync`, and can
be written again at any time: a trial's run is found by its tag, and its timestamps are those of the stored rows.
"""

from __future__ import annotations

import logging
import math
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from raycl.addresses import shown
from raycl.errors import InfrastructureError, RayclError
from raycl.matrix import AccuracyMatrix, TaskRow
from raycl.results import schema
from raycl.results.comparison import owners_of, sweep_of
from raycl.results.outcomes import Record
from raycl.results.reading import Folder, opened
from raycl.results.store import ResultsFolder
from raycl.results.tables import comparison
from raycl.results.trackers.mlflow_address import DATABASE, beside, nowhere, tracking_uri, ui_command, unusable
from raycl.results.trackers.mlflow_metrics import metrics_of
from raycl.results.trackers.mlflow_network import write_network
from raycl.results.trackers.mlflow_place import ARTIFACTS, follow, home
from raycl.results.trackers.mlflow_runs import FolderRuns
from raycl.results.trackers.mlflow_summary import KIND, SHARED_VIEW, figures, note, searched, view, winners, write_files
from raycl.results.trackers.mlflow_terms import (
    LAYOUT,
    SEPARATOR,
    Suggestions,
    data_set,
    parameters_of,
    run_name,
    tags_of,
)
from raycl.results.trial_store import TrialStore
from raycl.spec.entry import entry_key
from raycl.spec.fingerprint import commit
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec

RETRY_SECONDS = 60.0
"""After a failure the server is left alone for so long."""
BATCH = 500
"""Metrics per request; servers refuse more than 1000."""
MOST_PARAMETERS = 100
"""Per request, as servers have it."""
STATUS = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}

__all__ = ["MLflowMirror", "shown_runs", "sync", "tracking_uri", "ui_command"]
log = logging.getLogger(__name__)


def sync(folder: Folder) -> int:
    """Log every trial that has ended and is not logged yet, and the report, written anew; returns their number.

    Raises:
        InfrastructureError: the tracking server cannot be used.
    """
    results = opened(folder)
    sweep, uri = sweep_of(results), tracking_uri(results)
    if uri is None:
        log.warning("%s", nowhere(results))
        _report(results, sweep)
        return 0
    try:
        runs = _Runs(results, uri, sweep)
        logged = sum(runs.log(spec) for spec in results.specs())
        _report(results, sweep)
        runs.log_summary()
    except RayclError:
        raise
    except Exception as error:  # MLflow raises its own, those of requests and of SQLAlchemy
        raise InfrastructureError(unusable(results, uri, error)) from error
    return logged


def _report(results: ResultsFolder, sweep: SweepSpec | None) -> None:
    if sweep is not None and sweep.report:
        from raycl.results.report import leave_report  # late: it imports matplotlib

        leave_report(results)


def shown_runs(folder: Folder) -> tuple[str, str]:
    """The id of the experiment that holds a folder's runs, and the key of the view that shows them.

    Raises:
        InfrastructureError: the tracking server cannot be used, or nothing is logged anywhere.
    """
    results = opened(folder)
    uri = tracking_uri(results)
    if uri is None:
        raise InfrastructureError(nowhere(results))
    try:
        return _Runs(results, uri, sweep_of(results)).show()
    except RayclError:
        raise
    except Exception as error:  # MLflow raises its own, those of requests and of SQLAlchemy
        raise InfrastructureError(unusable(results, uri, error)) from error


class MLflowMirror:
    """Logs trials as they end. What cannot be logged, as the server is down, is left for :func:`sync`.

    Attributes:
        dirty: whether something was left.
    """

    name = "MLflow"

    def __init__(self, results: ResultsFolder, sweep: SweepSpec | None = None) -> None:
        self.remedy = f"`raycl sync {shlex.quote(shown(results.uri))}` logs what is missing"
        self._results = results
        self._sweep = sweep
        self._runs: _Runs | None = None
        self._warned = False
        self._retry_at = 0.0
        self.dirty = False

    @cached_property
    def _uri(self) -> str | None:
        """Found out when the first trial has ended, as that imports what logging needs."""
        uri = tracking_uri(self._results)
        if uri is None:
            log.info("no runs are logged: %s", nowhere(self._results))
        return uri

    def add(self, record: Record) -> None:
        self._guarded(lambda runs: runs.log(record.spec))

    def finish(self) -> None:
        if self._runs is not None:
            self._guarded(lambda runs: runs.log_summary())
        if self.dirty:
            log.warning("some runs are not in MLflow; %s", self.remedy)

    def _guarded(self, action: Callable[[_Runs], object]) -> None:
        if self._uri is None:
            return
        if time.monotonic() < self._retry_at:
            self.dirty = True
            return
        try:
            if self._runs is None:
                self._runs = _Runs(self._results, self._uri, self._sweep)
            action(self._runs)
        except Exception as error:  # whatever a mirror meets, the sweep goes on
            self.dirty = True
            self._retry_at = time.monotonic() + RETRY_SECONDS
            if not self._warned:
                self._warned = True
                told = isinstance(error, RayclError)
                log.warning("%s", error if told else unusable(self._results, self._uri, error))


class _Runs:
    """The runs of one results folder on one tracking server, where another folder may hold the same sweep."""

    def __init__(self, results: ResultsFolder, uri: str, sweep: SweepSpec | None = None) -> None:
        self._results = results
        self._sweep = sweep
        self._suggestions = Suggestions(results, sweep)
        self._beside = results.files.local is not None and uri == beside(results.files.local)
        if self._beside and not results.files.exists(DATABASE):
            _make_database(results)
        elif self._beside:
            follow(Path(results.uri))
        self._client = _client(uri)
        place = home(Path(results.uri)) if self._beside else None
        self._known = FolderRuns(self._client, results, uri, place)

    def log(self, spec: TrialSpec) -> bool:
        """Log a trial that has ended; False where that is done already, or where it has not ended."""
        store = self._results.trial(spec)
        seal, verdict = store.seal(), store.verdict()
        if verdict is None:
            return False
        for run in self._known.own(f"tags.`raycl.trial` = '{spec.hash}'", seal):
            if run.data.tags.get("raycl.logged") == seal and run.data.tags.get("raycl.layout") == LAYOUT:
                if (
                    run.data.tags.get("mlflow.parentRunId") != self._known.parent
                ):  # that one was deleted, or another folder's
                    self._client.set_tag(run.info.run_id, "mlflow.parentRunId", self._known.parent)
                return False
            self._delete(run.info.run_id)  # half written, named otherwise, or the trial has ended anew since
        history = store.history()
        rows, times = history.rows(), history.times()
        began = store.began()
        ended = max(times.values(), default=began)
        tags = {"raycl.trial": spec.hash, "raycl.status": verdict.status, "mlflow.parentRunId": self._known.parent}
        number = self._suggestions.number(spec)
        tags |= {"raycl.entries": entry_key(spec.variant, spec.alias), "raycl.layout": LAYOUT, **tags_of(spec, number)}
        if verdict.reason:
            tags["raycl.reason"] = verdict.reason[:4000]
        run_id = self._known.create(run_name(spec, number), tags, began)
        self._log_artifacts(run_id, store, rows)
        self._log_data(run_id, spec, store.provenance())
        self._client.set_terminated(run_id, STATUS[verdict.status], int(1000 * ended))
        self._log_values(run_id, spec, _points(rows, times), seal)
        return True

    def _delete(self, run_id: str) -> None:
        self._client.delete_run(run_id)
        if self._beside:  # MLflow keeps the files of deleted runs
            self._results.files.delete_folder(f"{ARTIFACTS}/{run_id}")

    def log_summary(self) -> None:
        """The sweep's own run: table, winners, sweep file, and how its experiment is shown."""
        from mlflow.entities import Metric, RunTag

        table, now = comparison(self._results), int(1000 * time.time())
        self._name_owners()
        tags = {"mlflow.note.content": note(table), "raycl.layout": LAYOUT, "raycl.commit": commit(), **winners(table)}
        metrics = [Metric(name, value, now, 0) for name, value in figures(table).items()]
        told = [RunTag(name, text[:5000]) for name, text in tags.items() if text]
        for chunk in _chunks(told, MOST_PARAMETERS):
            self._client.log_batch(self._known.parent, tags=chunk)
        for metric_chunk in _chunks(metrics, BATCH):
            self._client.log_batch(self._known.parent, metrics=metric_chunk)
        with tempfile.TemporaryDirectory() as folder:
            write_files(self._results, table, Path(folder))
            self._put(self._known.parent, folder)
        self.show()
        ended = "FAILED" if table.failed else "FINISHED"
        self._client.set_terminated(self._known.parent, ended if table.complete else "KILLED")

    def show(self) -> tuple[str, str]:
        """Have the experiment shown as runs, with the columns worth looking at; its id, and the key of the view."""
        key, state = view(searched(self._sweep))
        for name, text in {**KIND, SHARED_VIEW + key: state}.items():
            self._client.set_experiment_tag(self._known.experiment, name, text)
        return self._known.experiment, key

    def _name_owners(self) -> None:
        """Name the runs of trials that several methods share after all of them: who ran one first is chance.

        A later suggestion may come to a trial that is logged already, so all owners are known only now.
        """
        shared = {name: keys for name, keys in owners_of(self._results).items() if len(keys) > 1}
        for name, keys in shared.items():
            told = ", ".join(keys)
            for run in self._known.having(f"tags.`raycl.trial` = '{name}'"):
                if run.data.tags.get("raycl.entries") != told:
                    _, _, rest = str(run.info.run_name).partition(SEPARATOR)
                    name_of_all = f"{'+'.join(keys)}{SEPARATOR}{rest}"
                    self._client.set_tag(run.info.run_id, "mlflow.runName", name_of_all[:250])
                    self._client.set_tag(run.info.run_id, "raycl.entries", told[:4000])

    def _log_values(self, run_id: str, spec: TrialSpec, points: Sequence[Any], seal: str) -> None:
        """Metrics, parameters, and after all else the tag: a run without it is written again.

        In one request where they fit, as each takes a transaction or a way to the server and back.
        """
        from mlflow.entities import Param, RunTag

        parameters = [Param(name, text) for name, text in parameters_of(spec).items() if text]
        for chunk in _chunks(parameters[MOST_PARAMETERS:], MOST_PARAMETERS):
            self._client.log_batch(run_id, params=chunk)
        for chunk in _chunks(points[BATCH:], BATCH):
            self._client.log_batch(run_id, metrics=chunk)
        logged = [RunTag("raycl.logged", seal)]
        self._client.log_batch(run_id, points[:BATCH], parameters[:MOST_PARAMETERS], logged)

    def _log_artifacts(self, run_id: str, store: TrialStore, rows: Sequence[TaskRow]) -> None:
        if not rows:
            return
        spec = store.spec
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "matrix.parquet").write_bytes(schema.to_parquet(schema.cells_table(spec.hash, rows)))
            if spec.phase == "final" or spec.evaluation.search == "all":  # of other matrices one row is measured
                from raycl.results import plots  # late: a sweep begins without matplotlib

                matrix = AccuracyMatrix.of(rows, len(rows[0].total))
                picture = plots.heat_map(matrix, f"{spec.alias}, seed {spec.seed_label}")
                (Path(folder) / "matrix.png").write_bytes(plots.png(picture))
            write_network(store, Path(folder) / "network")
            self._put(run_id, folder)

    def _put(self, run_id: str, folder: str) -> None:
        """Add the files of a folder to a run. MLflow remembers where those of a run lie, by the run's id alone, and a
        process that has written to a folder would write there what is a copy's: so nobody asks it where that is."""
        if self._beside:
            shutil.copytree(folder, Path(self._results.uri) / ARTIFACTS / run_id / "artifacts", dirs_exist_ok=True)
        else:
            self._client.log_artifacts(run_id, folder)

    def _log_data(self, run_id: str, spec: TrialSpec, provenance: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput

        self._client.log_inputs(run_id, [DatasetInput(Dataset(**data_set(spec, provenance)), [])])


def _client(uri: str) -> Any:
    """A client that gives up soon, says little, and keeps no global state.

    MLflow is imported here: that takes seconds, and it reads these variables once.
    """
    for name, value in (
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
        ("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1"),  # MLflow takes whole numbers only
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),  # two lines a run, amid the live table
    ):
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _make_database(results: ResultsFolder) -> None:
    """Make the SQLite file elsewhere and put it into place whole.

    Its first use takes seconds of migrations, and a driver that is stopped amid them would leave a file that no later
    run can use.
    """
    with tempfile.TemporaryDirectory() as folder:
        _client(beside(Path(folder))).search_experiments(max_results=1)
        results.files.write_once(DATABASE, (Path(folder) / DATABASE).read_bytes())


def _points(rows: Sequence[TaskRow], times: Mapping[int, float]) -> list[Any]:
    """The metrics that are numbers, in MLflow's class."""
    from mlflow.entities import Metric

    return [
        Metric(name, value, int(1000 * times.get(task, 0.0)), task + 1)
        for task, name, value in metrics_of(rows)
        if math.isfinite(value)
    ]


def _chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
