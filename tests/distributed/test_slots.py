"""Every protocol of search gives one table: with one slot, two or eight, and where the driver is killed half way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from sweeping import HEAD, content, parsed

from raycl.distributed.environment import environment
from raycl.results.reading import read_choices
from raycl.sweep.backend import RunOptions
from raycl.sweep.run import run_sweep

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

BRIEF = HEAD.replace("tasks: 5", "tasks: 3, classes_per_task: 2, class_order: [0, 1, 2, 3, 4, 5]").replace(
    "iterations: 20", "iterations: 6"
)
SEARCHED = (
    BRIEF
    + """
strategies:
  replay: {memory.capacity: {choice: [20, 50]}}
  naive: {training.learning_rate: {loguniform: [1e-4, 1e-1]}}
search: {protocol: PROTOCOL, sampler: tpe, trials: 6, generation: 2, startup: 2, finalists: {top: 2, seeds: [1]}}
final: {seeds: [10, 11]}
"""
)
"""A space of fewer points than trials, which is tried whole, and one of which TPE suggests two points at a time."""
CHOOSING = (
    BRIEF
    + """
strategies:
  ewc: {penalty: {loguniform: [1, 1e6]}, training.learning_rate: {choice: [1e-3, 1e-2]}}
search: {protocol: PROTOCOL, trials: 2}
final: {seeds: [0, 1, 2]}
"""
)
DECAYING = CHOOSING.replace("{loguniform: [1, 1e6]}", "1e9").replace(", trials: 2", "")
SWEEPS = {
    "end_of_training": SEARCHED,
    "{first_tasks: 1}": SEARCHED,
    "{first_tasks: {tasks: 1, disjoint: true}}": SEARCHED,
    "{transfer: {stream: {class_order: [4, 5, 6, 7, 8, 9]}}}": SEARCHED,
    "current_task": CHOOSING,
    "seen_tasks": CHOOSING,
    "{stability_decay: {trainings: 3, drop: 0.05}}": DECAYING,
}


@pytest.fixture(scope="module")
def eight() -> Iterator[str]:
    """The address of a cluster that takes eight trials at a time, on however few cores."""
    with environment({"RAY_AUTH_MODE": "disabled"}):
        context = ray.init(
            address="local",
            num_cpus=8,
            include_dashboard=False,
            object_store_memory=150_000_000,
            logging_level="ERROR",
            log_to_driver=False,
        )
        yield context.address_info["gcs_address"]
        ray.shutdown()


def table(folder: Path) -> tuple[Any, ...]:
    """All that may not differ: decisions, matrices, trials, and what trials chose as they went."""
    return (*content(folder), read_choices(folder).to_pylist())


def ended(folder: Path) -> int:
    return len(list(folder.glob("trials/*/verdict.json")))


def killed(file: Path, folder: Path, address: str, after: int) -> None:
    """Begin the sweep by its command, and kill its driver once so many trials have ended."""
    command = [Path(sys.executable).with_name("raycl"), "run", file, "--results", folder]
    asked = ["--address", address, "--max-concurrent", "2"]
    free = {**os.environ, "MLFLOW_TRACKING_URI": "", "OMP_NUM_THREADS": "1"}
    with (folder.parent / "told").open("w+") as told:
        process = subprocess.Popen([*command, *asked], env=free, stdout=told, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 240
        while ended(folder) < after and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, Path(told.name).read_text()


@pytest.mark.parametrize("protocol", SWEEPS)
def test_slots_and_a_killed_driver_change_nothing(eight: str, tmp_path: Path, protocol: str) -> None:
    sweep = parsed(SWEEPS[protocol].replace("PROTOCOL", protocol))
    for slots in (1, 8):
        done = run_sweep(sweep, tmp_path / str(slots), options=RunOptions(max_concurrent=slots))
        assert done.complete, done.reason
        assert not done.failed
    assert table(tmp_path / "8") == table(tmp_path / "1")
    (tmp_path / "sweep.yaml").write_text(sweep.text)
    whole = ended(tmp_path / "1")
    killed(tmp_path / "sweep.yaml", tmp_path / "2", eight, whole // 2)
    assert whole // 2 <= ended(tmp_path / "2") < whole
    assert run_sweep(sweep, tmp_path / "2", options=RunOptions(max_concurrent=2)).complete
    assert table(tmp_path / "2") == table(tmp_path / "1")
