"""``raycl ui``: a real server of MLflow, and its pages in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from results.made_results import HEAD, Made

from raycl.results.trackers.mlflow import sync
from raycl.results.trackers.mlflow_summary import page, view

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1200)]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
START_SECONDS = 400


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A method whose two points were searched, and the better one scored; all of it is in MLflow."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    text = HEAD + "strategies: {first: {strategy: replay, memory.capacity: {choice: [50, 100]}}}\n"
    made = Made(tmp_path / "results", f"{text}search: {{trials: 2}}\nfinal: {{seeds: [10, 11]}}\n")
    made.suggest("first", [50, 100])
    for capacity, accuracy in ((50, 20.25), (100, 30.75)):
        made.end("first", capacity, 0, accuracy)
    made.win("first", 100)
    for seed, accuracy in ((10, 40.5), (11, 50.5)):
        made.end("first", 100, seed, accuracy, "final")
    sync(made.results)
    return made


class Command:
    """``raycl ui`` as a person runs it."""

    def __init__(self, folder: str, told: Path) -> None:
        command = [sys.executable, "-m", "raycl", "ui", folder, "--no-browser"]
        self.told = told
        self.process = subprocess.Popen(command, stdout=told.open("wb"), stderr=subprocess.STDOUT)

    def address(self) -> str:
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends and self.process.poll() is None:
            lines = self.told.read_text().splitlines()
            if len(lines) > 1:
                return lines[0]
            time.sleep(0.2)
        raise AssertionError(self.told.read_text())


@pytest.fixture
def command(made: Made, tmp_path: Path) -> Any:
    command = Command(made.results.uri, tmp_path / "told")
    yield command
    command.process.terminate()
    command.process.wait(30)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_server_ends_with_the_command_and_leaves_no_process(command: Command, how: signal.Signals) -> None:
    address = command.address()
    assert address.startswith("http://127.0.0.1:")
    begun = psutil.Process(command.process.pid).children(recursive=True)
    assert begun
    assert urllib.request.urlopen(f"{address.partition('/#')[0]}/health").status == 200
    os.kill(command.process.pid, how)
    assert command.process.wait(30) == 0
    _, alive = psutil.wait_procs(begun, timeout=10)
    assert alive == []


def dom(address: str, place: Path, seconds: int = 60) -> str:
    """What a page holds once its scripts have run; a picture of it lies in ``place``."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1800,1200"]
    options += [f"--user-data-dir={place / 'profile'}", f"--virtual-time-budget={1000 * seconds}"]
    assert BROWSER is not None
    picture = f"--screenshot={place / 'page.png'}"
    done = subprocess.run([BROWSER, *options, picture, "--dump-dom", address], capture_output=True, timeout=240)
    return done.stdout.decode(errors="replace")


@pytest.mark.skipif(BROWSER is None, reason="needs chromium, of the distribution's packages")
def test_the_pages_show_runs_figures_and_parameters(command: Command, tmp_path: Path) -> None:
    address = command.address()
    server = address.partition("/#")[0]
    runs = dom(address, tmp_path)
    wanted = ("first · search 00 · seed 0", "first · final · seed 11", "average_accuracy", "searched/memory.capacity")
    for told in wanted:
        assert told in runs, told
    assert "0.505" in runs
    assert "Model training" in runs
    assert "No traces" not in runs
    query = json.dumps({"experiment_ids": ["1"], "filter": "tags.`raycl.phase` = 'search'"}).encode()
    asked = urllib.request.Request(f"{server}/api/2.0/mlflow/runs/search", query, {"Content-Type": "application/json"})
    found = json.loads(urllib.request.urlopen(asked).read())["runs"]
    assert len(found) == 2
    ids = json.dumps([run["info"]["run_id"] for run in found])
    compared = dom(f"{server}/#/compare-runs?runs={quote(ids)}&experiments={quote(json.dumps(['1']))}", tmp_path)
    assert "Parallel Coordinates Plot" in compared
    assert "searched/memory.capacity" in compared
    assert "average_accuracy" in compared


def test_the_address_opens_the_runs_with_columns() -> None:
    key, state = view(["searched/penalty"])
    assert page("http://127.0.0.1:1", "7", key) == (
        f"http://127.0.0.1:1/#/experiments/7/runs?viewStateShareKey={key}&workflowType=machine_learning"
    )
    assert "params.`searched/penalty`" in json.loads(state)["selectedColumns"]
