"""`ray job submit --working-dir . -- raycl run FILE` against a local cluster with a dashboard and a token."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from raycl.results.reading import read_trials

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TOKEN = "a-token-of-this-test-only-0123456789"

SWEEP = """
name: job
stream:   {name: split, dataset: digits, tasks: 2, scenario: class}
model:    {name: mlp, hidden: [16]}
training: {iterations: 5}
strategies: {naive: {}, replay: {memory.capacity: 20}}
final: {seeds: [1, 2]}
"""

OWN_SWEEP = """
name: own
stream:   {name: split, dataset: digits, tasks: 2, scenario: class}
model:    {name: mlp, hidden: [16]}
training: {iterations: 5}
strategies: {naive: {}, half: {}}
final: {seeds: [1]}
"""
OWN_METHOD = """
import raycl
from helper_beside import halved
from raycl.strategies.naive import Naive


@raycl.strategy("half")
class Half(Naive):
    paper = "nobody"

    def loss(self, batch):
        return halved(super().loss(batch))
"""
BESIDE = """
def halved(parts):
    from factor_beside import FACTOR

    return {name: FACTOR * part for name, part in parts.items()}
"""


@dataclass(frozen=True)
class Head:
    """A running head node."""

    address: str
    folder: Path
    environment: dict[str, str]

    def ray(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Ray's command line as a user of the cluster."""
        return self.run("ray", *arguments, **changes)

    def run(self, program: str, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """A program of this environment, in the folder of the project."""
        return subprocess.run(
            [BIN / program, *arguments],
            env={**self.environment, **changes},
            cwd=self.folder / "project",
            capture_output=True,
            text=True,
            timeout=240,
        )


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="rj"))  # short: Ray puts sockets with long names below it
    _project(folder / "project")
    ports = _free_ports(4)
    environment = _environment(folder)
    command = [BIN / "ray", "start", "--head", "--block", f"--temp-dir={folder / 'r'}", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", "--num-cpus=2", "--object-store-memory=150000000", f"--port={ports[0]}"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}"]
    command += [f"--dashboard-agent-listen-port={ports[2]}", f"--ray-client-server-port={ports[3]}"]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    found = Head(f"http://127.0.0.1:{ports[1]}", folder, environment)
    try:
        _wait_for(found, process)
        yield found
    finally:
        process.terminate()
        _end_everything_below(folder)
        process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def _project(folder: Path) -> None:
    """A small copy of the repository: the package, one sweep, a method of the user's, the ignore files."""
    shutil.copytree(ROOT / "raycl", folder / "raycl", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "sweeps").mkdir()
    (folder / "sweeps" / "job.yaml").write_text(SWEEP)
    (folder / "own").mkdir()
    own = {"own.yaml": OWN_SWEEP, "my_method.py": OWN_METHOD, "helper_beside.py": BESIDE}
    for name, text in {**own, "factor_beside.py": "FACTOR = 0.5\n"}.items():
        (folder / "own" / name).write_text(text)


def _environment(folder: Path) -> dict[str, str]:
    """What the cluster files export where Ray starts, and a home of its own for the token."""
    token = folder / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text(TOKEN)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "MLFLOW"))}
    return {
        **kept,
        "HOME": str(folder / "home"),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAYCL_RESULTS": str(folder / "results"),
        "OMP_NUM_THREADS": "1",
    }


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, outside of those that Ray gives its workers."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
    assert not any(10_002 <= port <= 19_999 for port in ports)
    return ports


def _wait_for(head: Head, process: subprocess.Popen[bytes]) -> None:
    """Until the dashboard takes jobs."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, (head.folder / "head.log").read_text()
        if _status(head.address + "/api/jobs/", TOKEN) == 200:
            return
        time.sleep(0.5)
    pytest.fail(f"the head did not start: {(head.folder / 'head.log').read_text()}")


def _status(url: str, token: str | None) -> int:
    """HTTP status of a request; 0 where nobody answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _end_everything_below(folder: Path) -> None:
    """End the processes of this session: those that were started with its temporary folder, and their children."""
    own: set[psutil.Process] = set()
    for process in psutil.process_iter():
        try:
            if any(str(folder) in part for part in process.cmdline()):
                own |= {process, *process.children(recursive=True)}
        except psutil.Error:
            continue
    for process in own - {psutil.Process()}:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(own, timeout=10)


def test_a_job_runs_a_sweep_to_its_table(head: Head) -> None:
    submit = ["job", "submit", "--address", head.address, "--working-dir", ".", "--submission-id", "sweep"]
    done = head.ray(*submit, "--", "raycl", "run", "sweeps/job.yaml")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    table = done.stdout[done.stdout.index("average") :]
    assert "naive" in table
    assert "replay" in table
    results = head.folder / "results" / "job"
    assert str(results) in done.stdout, "the person is told where the results are"
    trials = read_trials(str(results)).to_pylist()
    assert sorted((trial["strategy"], trial["seed"]) for trial in trials) == [
        ("naive", 1),
        ("naive", 2),
        ("replay", 1),
        ("replay", 2),
    ]
    assert {trial["status"] for trial in trials} == {"finished"}


def test_a_job_imports_a_file_and_what_lies_beside_it(head: Head) -> None:
    """And its trials have the names, the code and the numbers of trials in one process."""
    command = ("run", "own/own.yaml", "--import", "own/my_method.py")
    submit = ("job", "submit", "--address", head.address, "--working-dir", ".", "--submission-id", "own")
    done = head.ray(*submit, "--", "raycl", *command)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    here = head.folder / "results" / "here"
    done = head.run("raycl", *command, "--backend", "here", "--results", str(here))
    assert done.returncode == 0, done.stdout + done.stderr
    in_job, alone = (read_trials(str(folder)).to_pylist() for folder in (head.folder / "results" / "own", here))
    told = ("strategy", "seed", "status", "trial", "code", "average_accuracy")
    rows = [sorted([trial[name] for name in told] for trial in trials) for trials in (in_job, alone)]
    assert rows[0] == rows[1]
    assert [row[:3] for row in rows[0]] == [["half", 1, "finished"], ["naive", 1, "finished"]]
    assert len({row[4] for row in rows[0]}) == 2, "a method of one's own has a fingerprint of its own"


def test_without_the_token_nobody_is_let_in(head: Head) -> None:
    assert _status(head.address + "/api/jobs/", None) == 401
    assert _status(head.address + "/api/jobs/", "another-token") in (401, 403)
    empty = head.folder / "nobody"
    empty.mkdir()
    submit = ["job", "submit", "--address", head.address, "--submission-id", "intruder"]
    refused = head.ray(*submit, "--", "true", HOME=str(empty), RAY_AUTH_TOKEN="another-token")
    assert refused.returncode != 0
    listed = head.ray("job", "list", "--address", head.address)
    assert "intruder" not in listed.stdout
