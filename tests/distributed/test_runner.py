"""Sweeps on Ray: the same YAML gives the same folder, with any number of slots and after any interruption."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pretraining import weights_file
from sweeping import HEAD, SWEEP, attempts, content, decisions, parsed
from typer.testing import CliRunner

from raycl.catalog import catalog
from raycl.cli import app
from raycl.distributed import cluster, runner
from raycl.distributed.environment import environment
from raycl.distributed.runner import run_sweep
from raycl.errors import COMPLETE, METHODS_FAILED, REFUSED, DataError, FolderInUse, InfrastructureError, StoreError
from raycl.live import SweepStatus
from raycl.matrix import AccuracyMatrix
from raycl.pretrained import pinned
from raycl.results.reading import read_trials
from raycl.results.store import Results
from raycl.results.tables import comparison
from raycl.results.tracking import Mirror
from raycl.spec.sweep import SweepSpec
from raycl.streams.source import LocalSource
from raycl.trainer import Trainer

STORED = Path(__file__).parents[1] / "stored"
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """One cluster for all tests of this file."""
    with environment({"RAY_ADDRESS": ""}), cluster.connected("tests", None):
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """The folder of the sweep, run to its end with two slots."""
    folder = tmp_path_factory.mktemp("undisturbed")
    looks: list[SweepStatus] = []
    outcome = run_sweep(parsed(SWEEP), folder, max_concurrent=2, on_status=looks.append)
    assert outcome.complete, outcome.reason
    order = ["search", "finalists", "final"]
    for place in range(2):
        phases = [order.index(look.entries[place].phase) for look in looks]
        assert phases == sorted(phases)
    assert [(entry.key, entry.done, entry.total) for entry in looks[-1].entries] == [("naive", 2, 2), ("replay", 2, 2)]
    return folder


def test_one_slot_gives_what_two_give(undisturbed: Path, tmp_path: Path) -> None:
    assert run_sweep(parsed(SWEEP), tmp_path, max_concurrent=1).complete
    assert content(tmp_path) == content(undisturbed)
    assert len(decisions(tmp_path)) == 12


def test_no_actor_outlives_its_sweep(undisturbed: Path) -> None:
    """Workers go on to the next trial, so what a trial leaves behind in them would add up."""
    deadline = time.monotonic() + 20
    while (left := _actors()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def _actors() -> list[str]:
    """Names of this cluster's actors of raycl that are alive."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found += [
                name for name in ("ReplayShard", "StreamShard", "TrialRunner") if name in " ".join(process.cmdline())
            ]
    return found


def test_running_again_repeats_nothing(undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.parquet")}
    ended: list[str] = []
    outcome = run_sweep(parsed(SWEEP), undisturbed, on_record=lambda record: ended.append(record.spec.hash))
    assert outcome.complete
    assert set(attempts(undisturbed).values()) == {1}
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.parquet")} == before
    assert sorted(ended) == sorted(attempts(undisturbed))


def test_only_one_driver_at_a_time(undisturbed: Path) -> None:
    with Results.open(undisturbed).lease(), pytest.raises(FolderInUse):
        run_sweep(parsed(SWEEP), undisturbed)


def test_another_sweep_is_refused(undisturbed: Path) -> None:
    with pytest.raises(StoreError, match="another"):
        run_sweep(parsed(SWEEP.replace("trials: 5", "trials: 6")), undisturbed)


def test_a_failure_of_the_method_is_a_verdict_and_not_retried(ray_cluster: None, tmp_path: Path) -> None:
    sweep = parsed(HEAD + "strategies: {naive: {}}\nfinal: {seeds: [1, 2]}\nlimits: {max_parameters: 10}\n")
    for retry_failed, tries in ((False, 1), (False, 1), (True, 2)):
        outcome = run_sweep(sweep, tmp_path, retry_failed=retry_failed)
        assert outcome.complete
        assert len(outcome.failed) == 1
        assert outcome.failed[0].startswith("naive: 2 of 2 final trials failed: ")
        assert set(attempts(tmp_path).values()) == {tries}
    trials = read_trials(tmp_path).to_pylist()
    assert {trial["status"] for trial in trials} == {"failed"}
    assert all("max_parameters" in trial["reason"] for trial in trials)


ONE = HEAD + "strategies: {naive: {}}\nfinal: {seeds: [1]}\n"


def test_what_ends_a_run_that_began_is_told_and_what_keeps_it_from_beginning_is_raised(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> int:
        raise InfrastructureError("the machine has died")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_fit", dies)
        outcome = run_sweep(parsed(ONE), tmp_path)
    assert (outcome.complete, outcome.reason) == (False, f"the machine has died; {runner.CONTINUES}")
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "slots", dies)
        with pytest.raises(InfrastructureError, match="has died"):
            run_sweep(parsed(ONE), tmp_path)
    with monkeypatch.context() as patch:  # whatever Tune says: the folder says that trials are left
        patch.setattr(runner, "_fit", lambda drive, sweep: None)
        outcome = run_sweep(parsed(ONE), tmp_path)
    assert (outcome.complete, outcome.reason) == (False, f"trials of naive are left; {runner.CONTINUES}")
    assert run_sweep(parsed(ONE), tmp_path).complete


FAILING = """
strategies:
  naive: {}
  ewc: {penalty: {loguniform: [1, 100]}}
search: {trials: 2, seeds: [0], generation: 1, startup: 1}
final: {seeds: [10]}
"""


def test_exit_codes_tell_how_a_sweep_ended(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that no trial of a method keeps: the sweep is complete, the method has failed, and nothing waits."""
    monkeypatch.setattr(Mirror, "offer", lambda self, spec: None)  # MLflow takes seconds for each folder
    file, folder = tmp_path / "small.yaml", tmp_path / "results"
    file.write_text(HEAD + FAILING + "limits: {max_state_bytes: 14000}\n")

    def raycl(*arguments: str | Path) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(part) for part in arguments], env={"COLUMNS": "200"})
        return result.exit_code, result.output

    for command in (("run", file, "--results", folder), ("resume", folder)):
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
    assert raycl("resume", folder, "--retry-failed")[0] == METHODS_FAILED
    assert sorted(attempts(folder).values()) == [1, 2, 2]

    file.write_text(file.read_text().replace("digits", "mnist"))
    code, output = raycl("run", file, "--results", tmp_path / "none", "--data-root", tmp_path / "nowhere")
    assert (code, "MNIST was not found" in output) == (REFUSED, True)
    assert not (tmp_path / "none" / "trials").exists()
    file.write_text(HEAD + "strategies: {naive: {}}\nfinal: {seeds: [10]}\n")
    assert raycl("run", file, "--results", tmp_path / "whole")[0] == COMPLETE


def test_pretrained_weights_reach_the_trials_and_another_file_is_another_sweep(
    ray_cluster: None, tmp_path: Path
) -> None:
    root, folder = tmp_path / "data", tmp_path / "results"
    head = HEAD.replace("hidden: [24]", f"hidden: [12], weights: {weights_file(root)}")
    sweep = parsed(head + "strategies: {naive: {}}\nfinal: {seeds: [10]}\n")
    outcome = run_sweep(sweep, folder, data_root=root)
    assert outcome.complete, outcome.reason
    spec = pinned(sweep, root).trial(sweep.entries[0], {}, 10, "final")
    running = Trainer(spec, LocalSource(spec.stream, spec.seed), data_root=root)
    while not running.done:
        (*_, last) = running.run_task()
    stored = Results.open(folder).trial(spec).rows()[-1]
    assert stored.correct.tolist() == last.correct.tolist()
    weights_file(root, seed=1)
    with pytest.raises(StoreError, match="belongs to sweep"):
        run_sweep(sweep, folder, data_root=root)


def test_pruning_is_what_rows_and_quantile_say(ray_cluster: None, tmp_path: Path) -> None:
    pruner = "pruner: {quantile: 0.7, grace_tasks: 1, min_trials: 2}\n"
    text = SWEEP.replace("  replay: {memory.capacity: {choice: [20, 50, 100]}}\n", "").replace(
        "trials: 5, generation: 2, startup: 2, seeds: [0], finalists: {top: 2, seeds: [1]}",
        "trials: 7, generation: 2, startup: 3",
    )
    sweep = parsed(text + pruner)
    assert run_sweep(sweep, tmp_path, max_concurrent=2).complete
    results, entry, curves, pruned = Results.open(tmp_path), sweep.entries[0], {}, 0
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


def test_asha_prunes_search_trials_and_nothing_else(ray_cluster: None, tmp_path: Path) -> None:
    text = SWEEP.replace("  replay: {memory.capacity: {choice: [20, 50, 100]}}\n", "").replace(
        "trials: 5, generation: 2, startup: 2", "trials: 6, generation: 6, startup: 6"
    )
    sweep = parsed(text + "pruner: {scheduler: asha, grace_tasks: 1, reduction_factor: 2}\n")
    assert any("not reproducible" in warning for warning in sweep.warnings)
    assert run_sweep(sweep, tmp_path, max_concurrent=1).complete
    trials = read_trials(tmp_path).to_pylist()
    status = {phase: [t["status"] for t in trials if t["phase"] == phase] for phase in ("search", "finalists", "final")}
    assert status["finalists"] == ["finished"] * len(status["finalists"])
    assert status["final"] == ["finished"] * 2
    assert set(status["search"]) == {"finished", "pruned"}
    results = Results.open(tmp_path)
    for spec in results.specs():
        verdict = results.trial(spec).verdict()
        assert verdict is not None
        assert max(row.task for row in results.trial(spec).rows()) == verdict.task
    before = attempts(tmp_path)
    assert run_sweep(sweep, tmp_path).complete
    assert attempts(tmp_path) == before


def _quantile(curves: list[dict[int, float]], task: int) -> float | None:
    values = sorted(curve[task] for curve in curves if task in curve)
    return values[math.ceil(0.7 * len(values)) - 1] if len(values) >= 2 else None


def test_a_driver_that_is_ended_or_killed_leaves_a_folder_that_continues(undisturbed: Path, tmp_path: Path) -> None:
    folder, file = tmp_path / "results", tmp_path / "small.yaml"
    file.write_text(SWEEP)
    ended = _driver(file, folder, lambda: len(list(folder.glob("trials/*/verdict.json"))) >= 1, signal.SIGTERM)
    assert "SIGTERM" in ended
    assert not (folder / "lease.json").exists()
    known = len(list(folder.glob("trials/*/verdict.json")))
    _driver(file, folder, lambda: len(list(folder.glob("trials/*/verdict.json"))) > known, signal.SIGKILL)
    assert (folder / "lease.json").exists()
    assert not list(folder.glob("winners/*"))
    assert run_sweep(parsed(SWEEP), folder).complete
    assert content(folder) == content(undisturbed)


def _driver(file: Path, folder: Path, ready: Callable[[], bool], number: signal.Signals) -> str:
    """Run `raycl run` until ``ready``, then send it a signal. Returns what it printed."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "", "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
    command = [Path(sys.executable).with_name("raycl"), "run", file, "--results", folder]
    process = subprocess.Popen(
        command, cwd=file.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 240
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    return output


def test_other_data_are_refused_before_they_are_averaged(ray_cluster: None, tmp_path: Path) -> None:
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
    assert run_sweep(sweep, folder, data_root=data).complete
    shutil.rmtree(folder / "trials" / sweep.trial(sweep.entries[0], {}, 2, "final").hash)
    _write_set(data / "x", shift=1)
    with pytest.raises(DataError, match=r"same data: those here are not the ones .* restore the data, or choose"):
        run_sweep(sweep, folder, data_root=data)
    _write_set(data / "x", shift=0)
    assert run_sweep(sweep, folder, data_root=data).complete
    assert len(set(read_trials(folder)["data"].to_pylist())) == 1


def _write_set(folder: Path, shift: int) -> None:
    """Forty random images of four classes, the labels ``shift`` classes on."""
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


def test_a_folder_of_an_earlier_raycl_continues_with_what_has_changed(ray_cluster: None, tmp_path: Path) -> None:
    """Of its two methods naive gives the same numbers, and is read; der has its paper's head now, and runs anew."""
    folder = tmp_path / "before"
    with zipfile.ZipFile(STORED / "before.zip") as kept:
        kept.extractall(folder)
    before = {trial["trial"]: trial for trial in read_trials(folder).to_pylist()}
    sweep = SweepSpec.loads(Results.open(folder).sweep_json, catalog())
    assert [entry.alias for entry in sweep.entries if entry.mark] == ["der"]
    stamps = {name: (folder / "trials" / name / "verdict.json").stat().st_mtime_ns for name in before}
    assert run_sweep(sweep, folder).complete
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
