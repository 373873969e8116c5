"""The MLflow mirror: everything once, whatever happens to the server, and never at the cost of the sweep."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from results.made_results import HEAD, PROVENANCE, Made, mirrored, row, rows, spec
from safetensors.torch import load_file

from raycl.errors import InfrastructureError
from raycl.matrix import Verdict
from raycl.results.files import Files, digest
from raycl.results.store import ResultsFolder
from raycl.results.trackers import mlflow as tracking
from raycl.results.trackers.mlflow import shown_runs, sync, tracking_uri, ui_command
from raycl.results.trackers.mlflow_metrics import metrics_of
from raycl.results.trackers.mlflow_network import FILE
from raycl.trial import checkpoint

pytestmark = pytest.mark.alone


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file as the mirror makes it, once: that takes seconds."""
    results = ResultsFolder.create(tmp_path_factory.mktemp("mlflow"), '{"name": "none"}', "h")
    tracking._make_database(results)
    assert results.files.children("") == ["mlflow.db", "sweep.json"]
    return Path(results.uri) / "mlflow.db"


@pytest.fixture
def tracked(results: ResultsFolder, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> ResultsFolder:
    """A folder whose default tracking store is ready."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, Path(results.uri) / "mlflow.db")
    return results


def _client(results: ResultsFolder) -> Any:
    return tracking._client(str(tracking_uri(results)))


def _runs(results: ResultsFolder) -> list[Any]:
    client = _client(results)
    experiment = client.get_experiment_by_name("tiny")
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def _closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_trial_is_logged_once_and_whole(tracked: ResultsFolder, record: Callable[..., Any]) -> None:
    record(spec(uses_memory=True), rows())
    record(spec("gem", options={}), [], status="failed", reason="loss is not finite")
    tracked.trial(spec("open", options={"o": 1})).begin()
    assert sync(tracked) == 2
    assert sync(tracked) == 0
    by_trial = {run.data.tags.get("raycl.trial"): run for run in _runs(tracked)}
    assert len(by_trial) == len(_runs(tracked)) == 3
    parent, run = by_trial[None], by_trial[spec(uses_memory=True).hash]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.info.status == "FINISHED"
    assert by_trial[spec("gem", options={}).hash].info.status == "FAILED"
    assert run.info.run_name == "ewc · final · seed 10"
    assert run.data.params["searched/penalty"] == "10.0"
    assert run.data.params["fixed/memory.capacity"] == "500"
    assert not any(name.rpartition("/")[0] not in ("searched", "fixed") for name in run.data.params)
    assert json.loads(run.data.tags["raycl.point"]) == {"penalty": 10.0}
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits split class", "feed")
    client = _client(tracked)
    curve = client.get_metric_history(run.info.run_id, "average_accuracy")
    assert [(point.step, point.value) for point in curve] == [(1, 0.9), (2, 0.75), (3, pytest.approx(0.6))]
    assert curve[0].timestamp >= run.info.start_time > 1.6e12
    assert run.data.metrics["average_incremental_accuracy"] == pytest.approx(0.75)
    assert run.data.metrics["backward_transfer"] == pytest.approx(-0.3)
    assert run.data.metrics["accuracy/task_02"] == 0.5
    assert not {"final/average_accuracy", "pooled_accuracy"} & run.data.metrics.keys(), "said already"
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"matrix.parquet", "matrix.png"}
    assert (Path(tracked.uri) / "mlartifacts").is_dir()
    of_parent = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert of_parent >= {"table.txt", "table.csv", "winners.json"}


def test_runs_that_methods_share_name_all_of_them_and_the_parent_says_how_it_ended(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    method = "{strategy: replay, memory.capacity: {choice: [50, 100]}}"
    made = Made(
        tmp_path / "shared", f"{HEAD}strategies: {{first: {method}, second: {method}}}\nsearch: {{trials: 2}}\n"
    )
    shutil.copy(empty_database, Path(made.results.uri) / "mlflow.db")
    made.suggest("first", [50, 100])
    shared, own = made.end("first", 50, 0, 20.0), made.end("first", 100, 0, None, reason="boom")

    def runs() -> dict[Any, tuple[str, str, str | None]]:
        sync(made.results)
        return {
            run.data.tags.get("raycl.trial"): (
                run.info.run_name,
                run.info.status,
                run.data.tags.get("raycl.entries"),
            )
            for run in _runs(made.results)
        }

    first = {
        None: ("tiny", "KILLED", None),
        shared.hash: ("first · search 00 · seed 0", "FINISHED", "first"),
        own.hash: ("first · search 01 · seed 0", "FAILED", "first"),
    }
    assert runs() == first
    made.suggest("second", [50])  # comes to a trial that is logged already
    named = {**first, shared.hash: ("first+second · search 00 · seed 0", "FINISHED", "first, second")}
    assert runs() == runs() == named
    made.suggest("second", [50, 50])
    made.win("first", 50)
    made.win("second", 50)
    assert runs() == {**named, None: ("tiny", "FINISHED", None)}


def test_a_sweep_that_ended_with_a_failed_method_is_failed_and_not_killed(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = Made(tmp_path / "failed", HEAD + "strategies: {first: {strategy: naive}}\nfinal: {seeds: [10]}\n")
    shutil.copy(empty_database, Path(made.results.uri) / "mlflow.db")
    made.end("first", None, 10, None, "final", reason="too large")
    sync(made.results)
    (parent,) = [run for run in _runs(made.results) if "raycl.trial" not in run.data.tags]
    assert parent.info.status == "FAILED"


def test_undefined_metrics_are_left_out(tracked: ResultsFolder, record: Callable[..., Any]) -> None:
    record(spec("joint"), [row(2, [90, 91, 92])])
    sync(tracked)
    (run,) = [run for run in _runs(tracked) if "raycl.trial" in run.data.tags]
    assert run.data.metrics["average_accuracy"] == pytest.approx(0.91)
    assert "forgetting" not in run.data.metrics


def test_a_half_written_run_and_a_trial_that_ended_anew_are_written_again(tracked: ResultsFolder, record: Any) -> None:
    record(spec(), rows())
    sync(tracked)
    client = _client(tracked)
    (run,) = [run for run in _runs(tracked) if "raycl.trial" in run.data.tags]
    client.delete_tag(run.info.run_id, "raycl.logged")
    assert sync(tracked) == 1
    store = tracked.trial(spec())
    store.reopen()
    store.finish(Verdict("failed", "out of memory", None, 2), PROVENANCE)
    assert sync(tracked) == 1
    (run,) = [run for run in _runs(tracked) if "raycl.trial" in run.data.tags]
    assert (run.info.status, run.data.tags["raycl.reason"]) == ("FAILED", "out of memory")
    assert len(client.get_metric_history(run.info.run_id, "average_accuracy")) == 3


def test_the_mirror_logs_trials_as_they_end(tracked: ResultsFolder, record: Callable[..., Any]) -> None:
    assert mirrored(tracked, *(record(spec(seed=seed), rows()) for seed in range(2)))
    assert sync(tracked) == 0
    assert len(_runs(tracked)) == 3


def test_a_server_that_is_down_costs_nothing_and_sync_catches_up(
    tracked: ResultsFolder,
    record: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracking._client(_closed_port())  # the import is not what is timed
    monkeypatch.setenv("MLFLOW_TRACKING_URI", _closed_port())
    trials = [record(spec(seed=seed), rows()) for seed in range(2)]
    start = time.monotonic()
    with caplog.at_level(logging.WARNING, "raycl"):
        assert not mirrored(tracked, *trials)
    assert time.monotonic() - start < 2.2
    assert sum("cannot be used" in message for message in caplog.messages) == 1
    with pytest.raises(InfrastructureError, match="raycl sync"):
        sync(tracked)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync(tracked) == 2
    assert sync(tracked) == 0
    assert len(_runs(tracked)) == 3


class Counting:
    """A client that keeps the names of what it is asked for."""

    def __init__(self, client: Any, asked: list[str]) -> None:
        self._client, self._asked = client, asked

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def called(*values: Any, **named: Any) -> Any:
            self._asked.append(name)
            return method(*values, **named)

        return called


def test_a_trial_costs_few_requests_and_the_last_makes_it_count(
    tracked: ResultsFolder, record: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every one of them is a transaction of the database, or a way to the server and back."""
    asked: list[str] = []
    genuine = tracking._client
    monkeypatch.setattr(tracking, "_client", lambda uri: Counting(genuine(uri), asked))
    runs = tracking._Runs(tracked, str(tracking_uri(tracked)))
    asked.clear()
    assert runs.log(record(spec(), rows()))
    assert asked == ["search_runs", "create_run", "log_inputs", "set_terminated", "log_batch"]


def test_a_thousand_tasks_are_logged_in_few_requests() -> None:
    many = [row(task, [50.0] * 1000) for task in range(1000)]
    start = time.process_time()
    points = list(metrics_of(many))
    assert time.process_time() - start < 5
    assert not any(name.startswith("accuracy/") for _, name, _ in points)
    assert len(list(tracking._chunks(points, tracking.BATCH))) < 25


def test_where_the_runs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    results = ResultsFolder.create(tmp_path / "with space", '{"name": "x"}', "h")
    assert tracking_uri(results) == f"sqlite:///{tmp_path}/with space/mlflow.db"
    assert ui_command(results) == f"raycl ui '{tmp_path}/with space'"
    remote = ResultsFolder(
        Files("s3://bucket/x", results.files.filesystem, "x"), {"name": "x", "hash": "h", "sweep": "{}"}
    )
    remote.files.local = None
    assert (tracking_uri(remote), ui_command(remote)) == (None, "")
    assert sync(remote) == 0
    assert mirrored(remote, spec())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert (tracking_uri(remote), ui_command(remote)) == ("http://tracking:5000", "raycl ui s3://bucket/x")
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" in os.environ or tracking._client("http://tracking:5000")


# -- the sweep's own run, and folders that are copied -----------------------------------------------------------


def test_the_run_of_the_sweep_has_the_table_and_the_winners(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    text = HEAD + "strategies: {first: {strategy: replay, memory.capacity: {choice: [50, 100]}}}\n"
    made = Made(tmp_path / "whole", f"{text}search: {{trials: 2}}\nfinal: {{seeds: [10, 11]}}\n")
    shutil.copy(empty_database, Path(made.results.uri) / "mlflow.db")
    made.suggest("first", [50, 100])
    for capacity, accuracy in ((50, 20.0), (100, 30.0)):
        made.end("first", capacity, 0, accuracy)
    made.win("first", 100)
    for seed, accuracy in ((10, 40.0), (11, 50.0)):
        made.end("first", 100, seed, accuracy, "final")
    (Path(made.results.uri) / "report.html").write_text("<html></html>")
    sync(made.results)
    (parent,) = [run for run in _runs(made.results) if "raycl.trial" not in run.data.tags]
    assert parent.data.metrics["final/first/average_accuracy"] == pytest.approx(0.45)
    half = 12.7062 * 0.0707107 / 2**0.5  # Student's t of one degree of freedom, and the deviation of .4 and .5
    assert parent.data.metrics["final/first/average_accuracy_half_width"] == pytest.approx(half, rel=1e-4)
    assert json.loads(parent.data.tags["raycl.winner.first"]) == {"memory.capacity": 100}
    assert "45.00" in parent.data.tags["mlflow.note.content"]
    files = {file.path for file in _client(made.results).list_artifacts(parent.info.run_id)}
    wanted = {"table.txt", "table.csv", "winners.json", "sweep.yaml", "report.html", "average_accuracy.png"}
    assert files == wanted
    experiment, key = shown_runs(made.results)
    tags = _client(made.results).get_experiment(experiment).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    columns = json.loads(tags[f"mlflow.sharedViewState.{key}"])["selectedColumns"]
    assert {"metrics.`average_accuracy`", "params.`searched/memory.capacity`"} <= set(columns)


def _hashes(folder: str) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): digest(path.read_bytes()) for path in Path(folder).rglob("*") if path.is_file()
    }


def test_a_copy_that_goes_on_changes_nothing_in_the_original(tracked: ResultsFolder, record: Any) -> None:
    record(spec(), rows())
    sync(tracked)
    before = _hashes(tracked.uri)
    copied = Path(tracked.uri).with_name("copied")
    shutil.copytree(tracked.uri, copied)
    copy = ResultsFolder.open(copied)
    store = copy.trial(spec(seed=11))
    attempt = store.begin()
    for one in rows()[1:]:
        store.write_task(attempt, one.task, [one], {})
    store.finish(Verdict("finished", task=2), PROVENANCE)
    assert sync(copy) == 1
    assert _hashes(tracked.uri) == before
    assert len(_runs(copy)) == 3
    for run in _runs(copy):
        assert run.info.artifact_uri.startswith((copied / "mlartifacts").as_uri() + "/")
        assert list((copied / "mlartifacts" / run.info.run_id / "artifacts").iterdir())
    shutil.rmtree(tracked.uri)
    assert sync(copy) == 0


def test_the_check_finds_a_copy_that_writes_into_the_original(
    tracked: ResultsFolder, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: the store does not follow its folder."""
    monkeypatch.setattr(tracking, "follow", lambda folder: 0)
    with pytest.raises(AssertionError):
        test_a_copy_that_goes_on_changes_nothing_in_the_original(tracked, record)


def test_runs_of_an_earlier_naming_are_written_anew(tracked: ResultsFolder, record: Any) -> None:
    record(spec(), rows())
    sync(tracked)
    (run,) = [run for run in _runs(tracked) if "raycl.trial" in run.data.tags]
    client = _client(tracked)
    client.delete_tag(run.info.run_id, "raycl.layout")
    client.set_tag(run.info.run_id, "mlflow.runName", "ewc final seed 10")
    assert sync(tracked) == 1
    (again,) = [run for run in _runs(tracked) if "raycl.trial" in run.data.tags]
    assert again.info.run_name == "ewc · final · seed 10"
    folders = {path.name for path in (Path(tracked.uri) / "mlartifacts").iterdir()}
    assert run.info.run_id not in folders, "its files went with it"
    assert again.info.run_id in folders


def test_the_network_of_a_trial_that_keeps_its_state_is_there_to_load(
    tracked: ResultsFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.arange(6.0).reshape(2, 3)
    for seed, keeps in ((10, True), (11, False)):
        kept = spec(seed=seed, keep_checkpoint=keeps)
        store = tracked.trial(kept)
        state = checkpoint.encode({"strategy": {"network": {"head.weight": weights}}})
        store.write_task(store.begin(), 0, [row(0, [1, 2, 3])], state)
        store.finish(Verdict("finished", task=0), PROVENANCE)
    sync(tracked)
    runs = {run.data.tags["raycl.seed"]: run for run in _runs(tracked) if "raycl.trial" in run.data.tags}
    places = {seed: Path(tracked.uri, "mlartifacts", run.info.run_id, "artifacts") for seed, run in runs.items()}
    assert not (places["11"] / "network").exists()
    lines = re.search(r"```python\n(.*?)```", (places["10"] / "network" / "README.md").read_text(), re.DOTALL)
    assert lines is not None
    assert len(lines[1].splitlines()) == 3
    monkeypatch.chdir(places["10"] / "network")
    exec(lines[1], {})
    assert "'head.weight': (2, 3)" in capsys.readouterr().out
    assert torch.equal(load_file(FILE)["head.weight"], weights)
