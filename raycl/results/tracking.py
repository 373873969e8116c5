"""A mirror of the results in MLflow: one parent run per sweep, a child run per trial.

The results folder is the truth. The mirror is written from it, by one thread of the driver or by :func:`sync`, and can
be written again at any time: a trial's run is found by its tag, and its timestamps are those of the stored rows.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from raycl.errors import InfrastructureError, RayclError
from raycl.matrix import AccuracyMatrix, TaskRow
from raycl.results import plots, schema
from raycl.results.reading import Folder, opened
from raycl.results.store import Results, TrialStore
from raycl.results.tables import comparison
from raycl.spec.trial import TrialSpec

DATABASE = "mlflow.db"
QUEUE_LENGTH = 1000
RETRY_SECONDS = 60.0
"""After a failure the server is left alone for so long."""
MOST_TASKS = 20
"""Up to so many tasks each evaluated task is a metric of its own; beyond, the matrix is in the artifacts."""
BATCH = 500
"""Metrics per request; servers refuse more than 1000."""
COST_METRICS = (
    "wall_seconds",
    "cpu_seconds",
    "updates",
    "examples",
    *schema.COUNTED_LATER,
    "parameters",
    "state_bytes",
    "buffer_bytes",
)
STATUS = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}

log = logging.getLogger(__name__)


def tracking_uri(folder: Folder) -> str | None:
    """``MLFLOW_TRACKING_URI``, or a SQLite file beside local results; None where neither can be."""
    asked = os.environ.get("MLFLOW_TRACKING_URI")
    local = opened(folder).files.local
    if asked or local is None:
        return asked or None
    return _beside(local)


def ui_command(folder: Folder) -> str:
    """What a person types to see the runs; the address itself where a server is used; empty where nothing is logged."""
    uri = tracking_uri(folder)
    if uri is None or uri.startswith("http"):
        return uri or ""
    program = "mlflow" if shutil.which("mlflow") else str(Path(sys.executable).with_name("mlflow"))
    return shlex.join([program, "ui", "--backend-store-uri", uri])


def sync(folder: Folder) -> int:
    """Log every trial that has ended and is not logged yet; returns their number.

    Raises:
        InfrastructureError: the tracking server cannot be used.
    """
    results = opened(folder)
    uri = tracking_uri(results)
    if uri is None:
        log.warning("%s is no local folder: set MLFLOW_TRACKING_URI to say where its runs are logged", results.uri)
        return 0
    try:
        runs = _Runs(results, uri)
        logged = sum(runs.log(spec) for spec in results.specs())
        runs.log_summary()
    except RayclError:
        raise
    except Exception as error:  # MLflow raises its own, those of requests and of SQLAlchemy
        raise InfrastructureError(
            f"tracking server {uri} cannot be used ({_short(error)}); results are on disk, run `raycl sync` later"
        ) from error
    return logged


class Mirror:
    """Logs trials as they end, from a thread of its own; it never delays or ends the sweep.

    What cannot be logged (a server that is down, a full queue) is left for :func:`sync`.

    Attributes:
        dirty: whether something was left.
    """

    def __init__(self, folder: Folder) -> None:
        self._results = opened(folder)
        self._uri = tracking_uri(self._results)
        self._queue: queue.Queue[TrialSpec | None] = queue.Queue(QUEUE_LENGTH)
        self._thread: threading.Thread | None = None
        self._runs: _Runs | None = None
        self._warned = False
        self._retry_at = 0.0
        self.dirty = False
        if self._uri is None:
            log.info("%s is no local folder and MLFLOW_TRACKING_URI is not set: no runs are logged", self._results.uri)

    def offer(self, spec: TrialSpec) -> None:
        """Say that a trial has ended."""
        if self._uri is None:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="raycl-mlflow", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(spec)
        except queue.Full:
            self.dirty = True

    def close(self, timeout: float = 2.0) -> bool:
        """Log what waits, for at most ``timeout`` seconds; whether everything is logged."""
        if self._thread is None:
            return not self.dirty
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self.dirty = True
        self._thread.join(timeout)
        self.dirty = self.dirty or self._thread.is_alive()
        if self.dirty:
            log.warning("some runs are not in MLflow; `raycl sync %s` logs them", shlex.quote(self._results.uri))
        return not self.dirty

    def _work(self) -> None:
        while (spec := self._queue.get()) is not None:
            self._guarded(lambda runs, spec=spec: runs.log(spec))  # type: ignore[misc]
        self._guarded(lambda runs: runs.log_summary())

    def _guarded(self, action: Callable[[_Runs], object]) -> None:
        if time.monotonic() < self._retry_at:
            self.dirty = True
            return
        try:
            if self._runs is None:
                self._runs = _Runs(self._results, str(self._uri))
            action(self._runs)
        except Exception as error:  # whatever a mirror meets, the sweep goes on
            self.dirty = True
            self._retry_at = time.monotonic() + RETRY_SECONDS
            if not self._warned:
                self._warned = True
                log.warning("MLflow at %s cannot be used (%s); results are on disk", self._uri, _short(error))


class _Runs:
    """The runs of one sweep on one tracking server."""

    def __init__(self, results: Results, uri: str) -> None:
        self._results = results
        self._beside = results.files.local is not None and uri == _beside(results.files.local)
        if self._beside and not results.files.exists(DATABASE):
            _make_database(results)
        self._client = _client(uri)
        self._experiment = self._find_experiment()
        self._parent = self._find_parent()

    def log(self, spec: TrialSpec) -> bool:
        """Log a trial that has ended; False where that is done already, or where it has not ended."""
        store = self._results.trial(spec)
        seal, verdict = store.seal(), store.verdict()
        if verdict is None:
            return False
        for run in self._search(f"tags.`raycl.trial` = '{spec.hash}'"):
            if run.data.tags.get("raycl.logged") == seal:
                return False
            self._client.delete_run(run.info.run_id)  # half written, or the trial has ended anew since
        history = store.history()
        rows, times = history.rows(), history.times()
        began = store.began()
        ended = max(times.values(), default=began)
        tags = {"raycl.trial": spec.hash, "raycl.status": verdict.status, "mlflow.parentRunId": self._parent}
        tags |= {f"raycl.{name}": str(getattr(spec, name)) for name in ("phase", "alias", "strategy", "variant")}
        if verdict.reason:
            tags["raycl.reason"] = verdict.reason[:4000]
        run_id = self._create(f"{spec.alias} {spec.phase} seed {spec.seed}", tags, began)
        self._log_parameters(run_id, spec)
        self._log_metrics(run_id, rows, times)
        self._log_artifacts(run_id, store, rows)
        self._client.set_terminated(run_id, STATUS[verdict.status], int(1000 * ended))
        self._client.set_tag(run_id, "raycl.logged", seal)  # last: a run without it is written again
        return True

    def log_summary(self) -> None:
        """The comparison table, with the sweep's own run."""
        table = comparison(self._results)
        self._client.log_text(self._parent, str(table), "comparison.txt")
        self._client.set_terminated(self._parent, "FINISHED" if table.complete else "KILLED")

    def _log_parameters(self, run_id: str, spec: TrialSpec) -> None:
        from mlflow.entities import Param

        names = ("alias", "strategy", "variant", "phase", "seed", "score_on", "train_on")
        values = {name: getattr(spec, name) for name in names} | schema.hyperparameters(spec)
        parameters = [Param(name, _text(value)) for name, value in values.items() if value != ""]
        for chunk in _chunks(parameters, 100):
            self._client.log_batch(run_id, params=chunk)

    def _log_metrics(self, run_id: str, rows: Sequence[TaskRow], times: dict[int, float]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(name, value, int(1000 * times.get(task, 0.0)), task + 1)
            for task, name, value in _metrics(rows)
            if math.isfinite(value)
        ]
        for chunk in _chunks(points, BATCH):
            self._client.log_batch(run_id, metrics=chunk)

    def _log_artifacts(self, run_id: str, store: TrialStore, rows: Sequence[TaskRow]) -> None:
        if not rows:
            return
        spec = store.spec
        matrix = AccuracyMatrix.of(rows, len(rows[0].total))
        picture = plots.heat_map(matrix, f"{spec.alias}, seed {spec.seed}")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "matrix.parquet").write_bytes(schema.encode(schema.cells_table(spec.hash, rows)))
            (Path(folder) / "matrix.png").write_bytes(plots.png(picture))
            (Path(folder) / "trial.json").write_text(spec.dumps())
            self._client.log_artifacts(run_id, folder)

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._results.name)
        if found is not None:
            return str(found.experiment_id)
        home = (Path(self._results.uri) / "mlartifacts").as_uri() if self._beside else None
        return str(self._client.create_experiment(self._results.name, artifact_location=home))

    def _find_parent(self) -> str:
        found = next(self._search("tags.`raycl.kind` = 'sweep'"), None)
        if found is not None:
            return str(found.info.run_id)
        return self._create(self._results.name, {"raycl.kind": "sweep"}, time.time())

    def _search(self, condition: str) -> Iterator[Any]:
        own = f"tags.`raycl.sweep` = '{self._results.sweep_hash}' and {condition}"
        yield from self._client.search_runs([self._experiment], own, max_results=50)

    def _create(self, name: str, tags: dict[str, str], began: float) -> str:
        tags = {**tags, "raycl.sweep": self._results.sweep_hash}
        run = self._client.create_run(self._experiment, start_time=int(1000 * began), tags=tags, run_name=name)
        return str(run.info.run_id)


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


def _beside(folder: Path) -> str:
    return f"sqlite:///{folder / DATABASE}"


def _make_database(results: Results) -> None:
    """Make the SQLite file elsewhere and put it into place whole.

    Its first use takes seconds of migrations, and a driver that is stopped amid them would leave a file that no later
    run can use.
    """
    with tempfile.TemporaryDirectory() as folder:
        _client(_beside(Path(folder))).search_experiments(max_results=1)
        results.files.write_once(DATABASE, (Path(folder) / DATABASE).read_bytes())


def _metrics(rows: Sequence[TaskRow]) -> Iterator[tuple[int, str, float]]:
    """(task, metric, value): curves over tasks, cost of each task, and the final metrics at the last task."""
    learned = [row for row in rows if row.task >= 0]
    if not learned:
        return
    num_tasks = len(learned[0].total)
    matrix = AccuracyMatrix.of(rows, num_tasks)
    measured: list[float] = []
    for row in learned:
        average = matrix.average_accuracy(row.task)
        measured += [average] if math.isfinite(average) else []
        yield row.task, "average_accuracy", average
        yield row.task, "average_incremental_accuracy", math.fsum(measured) / len(measured) if measured else math.nan
        for name in COST_METRICS:
            value = getattr(row.cost, name)
            if value is not None:
                yield row.task, f"cost/{name}", float(value)
        if num_tasks <= MOST_TASKS:
            for task, value in enumerate(matrix.accuracy[row.task], start=1):
                yield row.task, f"accuracy/task_{task:02d}", float(value)
    for name, value in matrix.metrics().items():
        yield learned[-1].task, f"final/{name}", value


def _text(value: str | int | float | bool) -> str:
    """One text for one value, whichever way it was read."""
    return value[:6000] if isinstance(value, str) else json.dumps(value)


def _chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
