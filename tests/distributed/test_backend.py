"""Sweeps on Ray: the same YAML gives the same folder, with any number of slots and after any interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from sweeping import HEAD, SWEEP, attempts, content, decisions, parsed

from raycl.catalog import catalog
from raycl.distributed import backend, cluster
from raycl.distributed.environment import environment
from raycl.errors import InfrastructureError
from raycl.results.reading import read_choices, read_trials
from raycl.results.store import ResultsFolder
from raycl.spec.own_files import FILES, import_code
from raycl.sweep.backend import RunOptions
from raycl.sweep.run import CONTINUES, run_sweep

STORED = Path(__file__).parents[1] / "stored"
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """One cluster for all tests of this file."""
    with environment({"RAY_ADDRESS": ""}), cluster.connected("tests", None):
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sweep, run to its end in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_sweep(parsed(SWEEP), folder, backend="here").complete
    return folder


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """The folder of the sweep, run to its end on Ray with two slots."""
    folder = tmp_path_factory.mktemp("on_ray")
    assert run_sweep(parsed(SWEEP), folder, options=RunOptions(max_concurrent=2)).complete
    return folder


def test_both_backends_give_the_same_folder(undisturbed: Path, on_ray: Path) -> None:
    assert content(on_ray) == content(undisturbed)
    assert decisions(on_ray) == decisions(undisturbed)
    assert len(decisions(on_ray)) == 10


@pytest.mark.slow
def test_another_number_of_slots_gives_the_same_folder(undisturbed: Path, ray_cluster: None, tmp_path: Path) -> None:
    assert run_sweep(parsed(SWEEP), tmp_path, options=RunOptions(max_concurrent=1)).complete
    assert content(tmp_path) == content(undisturbed)
    assert decisions(tmp_path) == decisions(undisturbed)


def test_no_actor_outlives_its_sweep(on_ray: Path) -> None:
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


ONE = HEAD + "strategies: {naive: {}}\nfinal: {seeds: [1]}\n"


def test_what_ends_a_run_that_began_is_told_and_what_keeps_it_from_beginning_is_raised(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> int:
        raise InfrastructureError("the machine has died")

    with monkeypatch.context() as patch:
        patch.setattr(backend, "_fit", dies)
        outcome = run_sweep(parsed(ONE), tmp_path)
    assert (outcome.complete, outcome.reason) == (False, f"the machine has died; {CONTINUES}")
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "slots", dies)
        with pytest.raises(InfrastructureError, match="has died"):
            run_sweep(parsed(ONE), tmp_path)
    with monkeypatch.context() as patch:  # whatever Tune says: the folder says that trials are left
        patch.setattr(backend, "_fit", lambda drive, sweep: None)
        outcome = run_sweep(parsed(ONE), tmp_path)
    assert (outcome.complete, outcome.reason) == (False, f"trials of naive are left; {CONTINUES}")
    assert run_sweep(parsed(ONE), tmp_path).complete


CHOOSING = """
strategies:
  derpp: {alpha: {loguniform: [0.01, 1]}}
  ewc: {training.learning_rate: {loguniform: [1e-3, 1e-2]}}
search: {protocol: {seen_tasks: {}}, trials: 2}
final: {seeds: [10, 11]}
"""


def test_trials_that_choose_as_they_go_choose_alike_with_replay_actors(ray_cluster: None, tmp_path: Path) -> None:
    """One after another here, two at a time there, where all trainings of a trial share its replay actors."""
    sweep = parsed(HEAD.replace("tasks: 5", "tasks: 3, classes_per_task: 2") + CHOOSING)
    assert run_sweep(sweep, tmp_path / "here", backend="here").complete
    assert run_sweep(sweep, tmp_path / "ray", options=RunOptions(max_concurrent=2)).complete
    assert content(tmp_path / "ray") == content(tmp_path / "here")
    choices = [read_choices(tmp_path / name).to_pylist() for name in ("ray", "here")]
    assert choices[0] == choices[1]
    assert len(choices[0]) == 2 * 2 * 3 * 2


METHOD = """
import raycl
from factors_beside import FACTOR
from raycl.strategies.naive import Naive


@raycl.strategy("half")
class Half(Naive):
    paper = "nobody"

    def loss(self, batch):
        import late_beside

        return late_beside.scaled(super().loss(batch), FACTOR)
"""
LATE = """
def scaled(parts, factor):
    return {name: factor * part for name, part in parts.items()}
"""


def test_a_file_s_method_and_what_lies_beside_it_run_on_workers(ray_cluster: None, tmp_path: Path) -> None:
    files = {"half_loss": METHOD, "factors_beside": "FACTOR = 0.5\n", "late_beside": LATE}
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    try:
        import_code(str(tmp_path / "half_loss.py"))
        sweep = parsed(ONE.replace("naive", "half"))
        for backend_ in ("ray", "here"):
            assert run_sweep(sweep, tmp_path / backend_, backend=backend_).complete
        code = [read_trials(tmp_path / backend_)["code"].to_pylist() for backend_ in ("ray", "here")]
    finally:
        for name in files:
            FILES.pop(name, None)
            sys.modules.pop(name, None)
        catalog().strategies._registered.pop("half", None)
    assert content(tmp_path / "ray") == content(tmp_path / "here")
    assert code[0] == code[1]


def test_asha_prunes_search_trials_and_nothing_else(ray_cluster: None, tmp_path: Path) -> None:
    text = SWEEP.replace("  replay: {memory.capacity: {choice: [20, 50, 100]}}\n", "").replace(
        "trials: 5, generation: 2, startup: 2", "trials: 6, generation: 6, startup: 6"
    )
    sweep = parsed(text + "pruner: {scheduler: asha, grace_tasks: 1, reduction_factor: 2}\n")
    assert any("not reproducible" in warning for warning in sweep.warnings)
    assert run_sweep(sweep, tmp_path, options=RunOptions(max_concurrent=1)).complete
    trials = read_trials(tmp_path).to_pylist()
    status = {phase: [t["status"] for t in trials if t["phase"] == phase] for phase in ("search", "finalists", "final")}
    assert status["finalists"] == ["finished"] * len(status["finalists"])
    assert status["final"] == ["finished"] * 2
    assert set(status["search"]) == {"finished", "pruned"}
    results = ResultsFolder.open(tmp_path)
    for spec in results.specs():
        verdict = results.trial(spec).verdict()
        assert verdict is not None
        assert max(row.task for row in results.trial(spec).rows()) == verdict.task
    before = attempts(tmp_path)
    assert run_sweep(sweep, tmp_path).complete
    assert attempts(tmp_path) == before


def test_a_killed_driver_leaves_a_folder_that_the_other_backend_continues(undisturbed: Path, tmp_path: Path) -> None:
    folder, file = tmp_path / "results", tmp_path / "small.yaml"
    file.write_text(SWEEP)
    _driver(file, folder, "ray", lambda: _ended(folder) >= 1, signal.SIGKILL)
    assert (folder / "lease.json").exists()
    assert not list(folder.glob("winners/*"))
    assert run_sweep(parsed(SWEEP), folder, backend="here").complete
    assert content(folder) == content(undisturbed)


@pytest.mark.slow
def test_drivers_that_end_one_after_another_leave_the_folder_of_one(
    undisturbed: Path, ray_cluster: None, tmp_path: Path
) -> None:
    folder, file = tmp_path / "results", tmp_path / "small.yaml"
    file.write_text(SWEEP)
    told = _driver(file, folder, "here", lambda: _ended(folder) >= 1, signal.SIGTERM)
    assert "SIGTERM" in told
    assert not (folder / "lease.json").exists()
    for where in ("ray", "here"):
        known = _ended(folder)
        _driver(file, folder, where, lambda known=known: _ended(folder) > known, signal.SIGKILL)
        assert (folder / "lease.json").exists()
    assert not list(folder.glob("winners/*"))
    assert run_sweep(parsed(SWEEP), folder).complete
    assert content(folder) == content(undisturbed)


def _ended(folder: Path) -> int:
    """Trials that have their verdict."""
    return len(list(folder.glob("trials/*/verdict.json")))


def _driver(file: Path, folder: Path, where: str, ready: Callable[[], bool], number: signal.Signals) -> str:
    """Run `raycl run` until ``ready``, then send it a signal. Returns what it printed."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "", "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
    command = [Path(sys.executable).with_name("raycl"), "run", file, "--results", folder, "--backend", where]
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
