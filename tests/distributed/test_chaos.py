"""Two nodes lose a trial's worker, a replay actor, a stream actor and a whole node while a sweep runs."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster
from sweeping import HEAD, TASKS, content, parsed

from raycl.distributed.environment import environment
from raycl.results.reading import read_cells, read_trials
from raycl.results.store import ResultsFolder
from raycl.sweep.run import run_sweep

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

SWEEP = HEAD.replace("iterations: 20", "iterations: 400") + (
    "strategies: {naive: {}, replay: {}}\nfinal: {seeds: [10, 11, 12, 13, 14, 15]}\n"
)


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """A head without CPUs, and two nodes with one each."""
    with (
        tempfile.TemporaryDirectory(prefix="rc", ignore_cleanup_errors=True) as folder,
        environment({"RAY_AUTH_MODE": "disabled"}),
    ):
        Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder, "object_store_memory": 150_000_000}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1, object_store_memory=150_000_000)
            ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


class Chaos(threading.Thread):
    """Kills one thing after another, each once trials have stored a few more tasks."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        super().__init__(daemon=True)
        self._cluster = cluster
        self._folder = folder
        self.killed: list[str] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._wait(self._kill_a_trial)
            self.killed.append("TrialRunner")
            for name in ("ReplayShard", "StreamShard"):
                self._after_more_rows()
                self._wait(lambda name=name: self._kill(name))
                self.killed.append(name)
            self._after_more_rows()
            lost = next(iter(self._cluster.worker_nodes))
            self._cluster.remove_node(lost, allow_graceful=False)
            self.killed.append("node")
        except Exception as error:  # told by the test
            self.error = error

    def _after_more_rows(self) -> None:
        before = self._rows()
        self._wait(lambda: self._rows() >= before + 2)

    def _rows(self) -> int:
        """Tasks that are stored; a finished trial keeps all of its own in one file."""
        trials = list(self._folder.glob("trials/*"))
        return sum(
            TASKS if (trial / "verdict.json").exists() else len(list(trial.glob("manifests/*.json")))
            for trial in trials
        )

    def _wait(self, ready: Callable[[], object]) -> None:
        deadline = time.monotonic() + 200
        while not ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {self.killed}")
            time.sleep(0.02)

    def _kill_a_trial(self) -> bool:
        """Kill the process of a trial that has stored a few of its tasks, not one that is between two trials."""
        for trial in self._folder.glob("trials/*"):
            stored = len(list(trial.glob("manifests/*.json")))
            if 1 <= stored <= 3 and not (trial / "verdict.json").exists():
                began = json.loads((trial / "attempts" / "0000.json").read_bytes())
                with suppress(psutil.Error):
                    psutil.Process(began["pid"]).kill()
                    return True
        return False

    def _kill(self, name: str) -> bool:
        """Kill one process of this cluster whose actor has the name; whether there was one."""
        for raylet in (node.all_processes["raylet"][0].process.pid for node in self._cluster.list_all_nodes()):
            for process in psutil.Process(raylet).children(recursive=True):
                with suppress(psutil.Error):
                    if name in " ".join(process.cmdline()):
                        process.kill()
                        return True
        return False


def test_every_loss_is_survived_and_changes_nothing(nodes: Cluster, tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    chaos = Chaos(nodes, tmp_path / "chaos")
    chaos.start()
    outcome = run_sweep(sweep, tmp_path / "chaos")
    chaos.join(5)
    assert chaos.error is None
    assert chaos.killed == ["TrialRunner", "ReplayShard", "StreamShard", "node"]
    assert outcome.complete, outcome.reason
    trials = read_trials(tmp_path / "chaos").to_pylist()
    assert [trial["status"] for trial in trials] == ["finished"] * 12
    cells = read_cells(tmp_path / "chaos").to_pylist()
    places = Counter((cell["trial"], cell["train_task"], cell["eval_task"]) for cell in cells)
    assert max(places.values()) == 1
    results = ResultsFolder.open(tmp_path / "chaos")
    assert all([row.task for row in results.trial(spec).rows()] == [-1, 0, 1, 2, 3, 4] for spec in results.specs())
    assert any(len(list(path.iterdir())) > 1 for path in (tmp_path / "chaos").glob("trials/*/attempts"))
    assert run_sweep(sweep, tmp_path / "calm").complete
    assert content(tmp_path / "chaos") == content(tmp_path / "calm")
