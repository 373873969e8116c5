"""A sweep, run in this process: what its folder holds, and what is refused, repeated or told."""

from __future__ import annotations

import io
import json
import math
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pretraining import weights_file
from support import local_source
from sweeping import HEAD, SWEEP, attempts, parsed
from typer.testing import CliRunner

from raycl.catalog import catalog
from raycl.cli.app import app
from raycl.errors import COMPLETE, METHODS_FAILED, REFUSED, DataError, FolderInUse, StoreError
from raycl.matrix import AccuracyMatrix
from raycl.results.reading import read_trials
from raycl.results.store import ResultsFolder
from raycl.results.tables import comparison
from raycl.results.trackers.mlflow import MLflowMirror
from raycl.spec.sweep import SweepSpec
from raycl.streams import source
from raycl.sweep.backend import RunOptions
from raycl.sweep.run import run_sweep
from raycl.sweep.status import SweepStatus
from raycl.trial.pretrained import pinned
from raycl.trial.trainer import Trainer

STORED = Path(__file__).parents[1] / "stored"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sweep, run to its end in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    looks: list[SweepStatus] = []
    outcome = run_sweep(parsed(SWEEP), folder, backend="here", on_status=looks.append)
    assert outcome.complete, outcome.reason
    order = ["search", "finalists", "final"]
    for place in range(2):
        phases = [order.index(look.entries[place].phase) for look in looks]
        assert phases == sorted(phases)
    assert [(entry.key, entry.done, entry.total) for entry in looks[-1].entries] == [("naive", 2, 2), ("replay", 2, 2)]
    told = dict.fromkeys(look.doing for look in looks if look.doing)
    assert list(told) == ["reading the data", "starting the first trials"]
    assert looks[-1].doing == "", "also when nothing runs any more"
    return folder


def test_running_again_repeats_nothing(undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.parquet")}
    ended: list[str] = []
    outcome = run_sweep(
        parsed(SWEEP), undisturbed, backend="here", on_record=lambda record: ended.append(record.spec.hash)
    )
    assert outcome.complete
    assert set(attempts(undisturbed).values()) == {1}
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.parquet")} == before
    assert sorted(ended) == sorted(attempts(undisturbed))


def test_a_finished_sweep_puts_its_data_set_together(undisturbed: Path) -> None:
    results = ResultsFolder.open(undisturbed)
    assert sorted(results.files.sizes("data")) == ["README.md", "cells/all.parquet", "trials/all.parquet"]
    trials = pq.read_table(undisturbed / "data" / "trials")
    assert trials.to_pylist() == read_trials(undisturbed).to_pylist()
    assert {trial["alias"] for trial in trials.to_pylist()} == {"naive", "replay"}


def test_a_data_set_that_cannot_be_put_together_stays_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(self: ResultsFolder) -> None:
        raise StoreError("the storage is away")

    sweep = parsed(HEAD + "strategies: {naive: {}}\nfinal: {seeds: [1, 2]}\n")
    with monkeypatch.context() as patch:
        patch.setattr(ResultsFolder, "collect", away)
        assert run_sweep(sweep, tmp_path, backend="here").complete
    assert "the data set stays in parts: the storage is away" in caplog.text
    files = ResultsFolder.open(tmp_path).files
    assert len(files.sizes("parts/trials")) == read_trials(tmp_path).num_rows == 2
    assert run_sweep(sweep, tmp_path, backend="here").complete
    assert list(files.sizes("data/trials")) == ["all.parquet"]
    assert files.sizes("parts") == {}
    assert read_trials(tmp_path).num_rows == 2


def test_only_one_driver_at_a_time(undisturbed: Path) -> None:
    with ResultsFolder.open(undisturbed).lease(), pytest.raises(FolderInUse):
        run_sweep(parsed(SWEEP), undisturbed, backend="here")


def test_another_sweep_is_refused(undisturbed: Path) -> None:
    with pytest.raises(StoreError, match="another"):
        run_sweep(parsed(SWEEP.replace("iterations: 20", "iterations: 21")), undisturbed, backend="here")


def test_a_failure_of_the_method_is_a_verdict_and_not_retried(tmp_path: Path) -> None:
    sweep = parsed(HEAD + "strategies: {naive: {}}\nfinal: {seeds: [1, 2]}\nlimits: {max_parameters: 10}\n")
    for retry_failed, tries in ((False, 1), (False, 1), (True, 2)):
        outcome = run_sweep(sweep, tmp_path, backend="here", options=RunOptions(retry_failed=retry_failed))
        assert outcome.complete
        assert len(outcome.failed) == 1
        assert outcome.failed[0].startswith("naive: 2 of 2 final trials failed: ")
        assert set(attempts(tmp_path).values()) == {tries}
    trials = read_trials(tmp_path).to_pylist()
    assert {trial["status"] for trial in trials} == {"failed"}
    assert all("max_parameters" in trial["reason"] for trial in trials)


FAILING = """
strategies:
  naive: {}
  ewc: {penalty: {loguniform: [1, 100]}}
search: {trials: 2, seeds: [0], generation: 1, startup: 1}
final: {seeds: [10]}
"""


def test_exit_codes_tell_how_a_sweep_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that no trial of a method keeps: the sweep is complete, the method has failed, and nothing waits."""
    monkeypatch.setattr(MLflowMirror, "add", lambda self, record: None)  # MLflow takes seconds for each folder
    monkeypatch.setattr("raycl.sweep.run.over_limits", lambda sweep, entry: lambda point: "")  # as if not known before
    file, folder = tmp_path / "small.yaml", tmp_path / "results"
    file.write_text(HEAD + FAILING + "limits: {max_state_bytes: 14000}\n")

    def raycl(*arguments: str | Path) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(part) for part in arguments], env={"COLUMNS": "200"})
        return result.exit_code, result.output

    here = ("--backend", "here")
    for command in (("run", file, *here, "--results", folder), ("resume", folder, *here)):
        code, output = raycl(*command)
        assert code == METHODS_FAILED, output
        assert "Incomplete" not in output
        assert "ewc: no suggestion finished: 2 of 2 search trials failed: " in output
        assert "max_state_bytes" in output
    assert set(attempts(folder).values()) == {1}, "nothing is repeated"
    told = raycl("show", folder, "--failures")[1]
    assert told.count("Traceback (most recent call last):") == 2
    for trial in read_trials(folder).to_pylist():
        path = folder / "trials" / trial["trial"] / "traceback.txt"
        assert path.exists() == (trial["status"] == "failed")
        assert (str(path) in told) == path.exists()
    assert raycl("resume", folder, *here, "--retry-failed")[0] == METHODS_FAILED
    assert sorted(attempts(folder).values()) == [1, 2, 2]

    file.write_text(file.read_text().replace("digits", "mnist"))
    code, output = raycl("run", file, *here, "--results", tmp_path / "none", "--data-root", tmp_path / "nowhere")
    assert (code, "MNIST was not found" in output) == (REFUSED, True)
    assert not (tmp_path / "none" / "trials").exists()
    file.write_text(HEAD + "strategies: {naive: {}}\nfinal: {seeds: [10]}\n")
    assert raycl("run", file, *here, "--results", tmp_path / "whole")[0] == COMPLETE


def test_pretrained_weights_reach_the_trials_and_another_file_is_another_sweep(tmp_path: Path) -> None:
    root, folder = tmp_path / "data", tmp_path / "results"
    head = HEAD.replace("hidden: [24]", f"hidden: [12], weights: {weights_file(root)}")
    sweep = parsed(head + "strategies: {naive: {}}\nfinal: {seeds: [10]}\n")
    outcome = run_sweep(sweep, folder, backend="here", options=RunOptions(data_root=str(root)))
    assert outcome.complete, outcome.reason
    spec = pinned(sweep, root).trial(sweep.entries[0], {}, 10, "final")
    running = Trainer(spec, local_source(spec.stream, spec.seed), data_root=root)
    while not running.done:
        (*_, last) = running.run_task()
    stored = ResultsFolder.open(folder).trial(spec).rows()[-1]
    assert stored.correct.tolist() == last.correct.tolist()
    weights_file(root, seed=1)
    with pytest.raises(StoreError, match="belongs to sweep"):
        run_sweep(sweep, folder, backend="here", options=RunOptions(data_root=str(root)))


def test_pruning_is_what_rows_and_quantile_say(tmp_path: Path) -> None:
    pruner = "pruner: {quantile: 0.7, grace_tasks: 1, min_trials: 2}\n"
    text = SWEEP.replace("  replay: {memory.capacity: {choice: [20, 50, 100]}}\n", "").replace(
        "trials: 5, generation: 2, startup: 2, seeds: [0], finalists: {top: 2, seeds: [1]}",
        "trials: 7, generation: 2, startup: 3",
    )
    sweep = parsed(text + pruner)
    assert run_sweep(sweep, tmp_path, backend="here").complete
    results, entry, curves, pruned = ResultsFolder.open(tmp_path), sweep.entries[0], {}, 0
    for start, end in ((0, 3), (3, 5), (5, 7)):
        seen = list(curves.values())
        for index in range(start, end):
            stored = json.loads((tmp_path / f"suggestions/naive/{index:04d}.json").read_text())
            expected = {} if start == 0 else {task: _quantile(seen, task) for task in range(5)}
            limits = {int(task): value for task, value in stored["cutoffs"].items()}
            assert limits == {task: value for task, value in expected.items() if value is not None}
            trial = results.trial(sweep.trial(entry, stored["point"], 0, "search"))
            matrix = AccuracyMatrix.of(trial.rows(), 5)
            curves[index] = {row.task: matrix.average_accuracy(row.task) for row in trial.rows() if row.task >= 0}
            below = [task for task in range(4) if curves[index].get(task, 1.0) < limits.get(task, 0.0)]
            verdict = trial.verdict()
            assert verdict is not None
            assert verdict.status == ("pruned" if below else "finished")
            assert max(curves[index]) == (below[0] if below else 4)  # not a task more was learned
            pruned += bool(below)
    assert pruned >= 1


def _quantile(curves: list[dict[int, float]], task: int) -> float | None:
    values = sorted(curve[task] for curve in curves if task in curve)
    return values[math.ceil(0.7 * len(values)) - 1] if len(values) >= 2 else None


def test_other_data_are_refused_before_they_are_averaged(tmp_path: Path) -> None:
    """A label file that was corrected between two runs of one folder: one seed of the old, one of the new."""
    data, folder = tmp_path / "data", tmp_path / "results"
    text = """
name: changed
stream: {name: split, dataset: "parquet:x", tasks: 2, scenario: class}
model: {name: mlp, hidden: [8]}
training: {iterations: 2, batch_size: 8}
strategies: {naive: {}}
final: {seeds: [1, 2]}
"""
    _write_set(data / "x", shift=0)
    sweep = parsed(text)
    assert run_sweep(sweep, folder, backend="here", options=RunOptions(data_root=str(data))).complete
    shutil.rmtree(folder / "trials" / sweep.trial(sweep.entries[0], {}, 2, "final").hash)
    _write_set(data / "x", shift=1)
    with pytest.raises(DataError, match=r"same data: those here are not the ones .* restore the data, or choose"):
        run_sweep(sweep, folder, backend="here", options=RunOptions(data_root=str(data)))
    _write_set(data / "x", shift=0)
    assert run_sweep(sweep, folder, backend="here", options=RunOptions(data_root=str(data))).complete
    assert len(set(read_trials(folder)["data"].to_pylist())) == 1


def _write_set(folder: Path, shift: int) -> None:
    """Forty random images of four classes, the labels ``shift`` classes on."""
    source._loaded.clear()  # a process reads a data set once, and a run is a process
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    encoded = []
    for image in pixels:
        with io.BytesIO() as file:
            Image.fromarray(image).save(file, "png")
            encoded.append({"bytes": file.getvalue(), "path": ""})
    labels = [(row + shift) % 4 for row in range(40)]
    for split, rows in (("train", slice(0, 32)), ("test", slice(32, 40))):
        pq.write_table(pa.table({"image": encoded[rows], "label": labels[rows]}), folder / f"{split}.parquet")


def test_a_folder_of_an_earlier_raycl_continues_with_what_has_changed(tmp_path: Path) -> None:
    """Of its two methods naive gives the same numbers, and is read; der has its paper's head now, and runs anew."""
    folder = tmp_path / "before"
    with zipfile.ZipFile(STORED / "before.zip") as kept:
        kept.extractall(folder)
    before = {trial["trial"]: trial for trial in read_trials(folder).to_pylist()}
    sweep = SweepSpec.loads(ResultsFolder.open(folder).sweep_json, catalog())
    assert [entry.alias for entry in sweep.entries if entry.mark] == ["der"]
    stamps = {name: (folder / "trials" / name / "verdict.json").stat().st_mtime_ns for name in before}
    assert run_sweep(sweep, folder, backend="here").complete
    after = {trial["trial"]: trial for trial in read_trials(folder).to_pylist()}
    assert {name: (folder / "trials" / name / "verdict.json").stat().st_mtime_ns for name in before} == stamps
    assert {name: trial["average_accuracy"] for name, trial in after.items() if name in before} == {
        name: trial["average_accuracy"] for name, trial in before.items()
    }
    new = [trial for name, trial in after.items() if name not in before]
    assert {trial["alias"] for trial in new} == {"der"}
    assert {trial["hp.training.active_logits"] for trial in new} == {"all"}
    shown = {line.alias: line for line in comparison(folder).lines}
    assert round(100 * shown["naive"].metrics["average_accuracy"].mean, 2) == 36.44
    assert set(shown["der"].trials) <= {trial["trial"] for trial in new}, "the former figure is read by nobody"
