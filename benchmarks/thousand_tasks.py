"""What grows with the number of tasks: seconds, bytes and memory of a trial at T / 10, 3 T / 10 and T tasks.

Permuted digits, an MLP 64-20-20-10, five updates of eight images a task, a sample of 20 earlier tasks measured after
each. The exponent is the slope of a line through the logarithms: 1 is linear in T. Trials run in processes of their
own, and their first tasks, which import and warm up, are left out. Then the folder of a trial of T tasks (going on at
nine tenths, `raycl show`, a matrix of which every cell was measured), and the actors of a trial on Ray.

    OMP_NUM_THREADS=1 python benchmarks/thousand_tasks.py [tasks]
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import psutil
import torch
from shared import judged, local_source, report, sweep

from raycl.catalog import catalog
from raycl.distributed.cluster import connected
from raycl.distributed.replay import ShardedStorage
from raycl.distributed.streams import RemoteSource, StreamShards
from raycl.matrix import TaskRow, Verdict
from raycl.results.store import ResultsFolder
from raycl.results.trial_store import TrialStore
from raycl.results.view import Results
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec
from raycl.streams.source import LocalSource
from raycl.trial.session import TrialSession
from raycl.trial.trainer import Trainer

CONSTANT = {
    "naive": "{}",
    "ewc": "{mode: online, fisher: sampled, fisher_examples: 20}",
    "si": "{}",
    "replay": "{}",
    "derpp": "{}",
}
"""Methods that keep as much after the last task as after the first."""
GROWING = {"hypernetwork": "{regulariser: sampled, chunk_size: 500}", "supsup": "{}"}
"""Methods that keep something of each task."""
LEFT_OUT = 20
"""Tasks before anything is counted."""
EXPONENT = 1.1
MEGABYTE = 1e6


def asked(strategy: str, options: str, tasks: int) -> tuple[SweepSpec, TrialSpec]:
    """A sweep of one cheap trial, and the trial."""
    found = sweep(
        strategy,
        options=options,
        stream=f"{{name: permuted, dataset: digits, tasks: {tasks}, scenario: task, train_per_task: 100}}",
        model="{name: mlp, hidden: [20, 20], head: single}",
        training="{optimizer: adam, learning_rate: 1e-3, batch_size: 8, iterations: 5}",
        memory="{capacity: 200}",
        evaluation="{tasks: {sample: 20}, future_tasks: false, max_examples: 20}",
    )
    return found, found.trial(found.entries[0], {}, 0, "final")


@dataclass(frozen=True)
class Trial:
    """What a trial took after its first tasks.

    Attributes:
        learned, stored: CPU seconds of learning and measuring, and of what is written, the end of the trial included.
        written: bytes of checkpoints.
        grown: bytes by which the process has grown.
    """

    learned: float
    stored: float
    written: float
    grown: float


class Watched(TrialStore):
    """A trial's store that knows the time and the bytes it took."""

    seconds = 0.0
    written = 0

    def write_task(
        self, attempt: int, task: int, rows: Any, checkpoint: Mapping[str, bytes], extra: Any = None
    ) -> None:
        began = time.process_time()
        super().write_task(attempt, task, rows, checkpoint, extra)
        self.seconds += time.process_time() - began
        self.written += sum(map(len, checkpoint.values()))

    def finish(self, verdict: Verdict, provenance: Mapping[str, Any], traceback: str = "") -> None:
        began = time.process_time()
        super().finish(verdict, provenance, traceback)
        self.seconds += time.process_time() - began


def own_bytes() -> int:
    """Bytes that this process shares with nobody, after what is unreachable has gone."""
    gc.collect()
    return int(psutil.Process().memory_full_info().uss)


def run(strategy: str, options: str, tasks: int) -> Trial:
    """The whole trial, here."""
    torch.set_num_threads(1)
    found, spec = asked(strategy, options, tasks)
    with tempfile.TemporaryDirectory(prefix="raycl-") as folder:
        results = ResultsFolder.create(folder, found.dumps(), found.hash)
        store = Watched(results.files, spec, results.name)
        session = TrialSession(local_source(spec, None), store)
        for _ in range(LEFT_OUT):
            session.step()
        before, began, store.seconds, store.written = own_bytes(), time.process_time(), 0.0, 0
        for _ in range(tasks - LEFT_OUT - 1):
            session.step()
        grown = own_bytes() - before
        session.step()
        taken = time.process_time() - began
    return Trial(taken - store.seconds, store.seconds, store.written, grown)


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """What a function gives in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def exponent(counts: Sequence[int], values: Sequence[float]) -> float:
    return float(np.polyfit(np.log([count - LEFT_OUT for count in counts]), np.log(values), 1)[0])


def growth(counts: Sequence[int]) -> None:
    """The first table."""
    rows = []
    for strategy, options in {**CONSTANT, **GROWING}.items():
        trials = [apart(run, strategy, options, count) for count in counts]
        cells = [strategy]
        for name in ("learned", "stored", "written"):
            values = [getattr(trial, name) for trial in trials]
            power = exponent(counts, values)
            kept = name == "written" and strategy in GROWING
            cells += [f"{values[-1] / (MEGABYTE if name == 'written' else 1):.1f}"]
            cells += [f"{power:.2f}" if kept else judged(power, EXPONENT, 2)[0]]
        rows.append([*cells, " ".join(f"{trial.grown / MEGABYTE:5.1f}" for trial in trials)])
    columns = ("method", "learn, s", "exp.", "store, s", "exp.", "states, MB", "exp.", "grown, MB")
    note = (
        f"CPU seconds and bytes of checkpoints from task {LEFT_OUT} on, at T = {counts[-1]}; exponents over T = "
        f"{', '.join(map(str, counts))}, goal {EXPONENT} (none for the checkpoints of {', '.join(GROWING)}, which keep "
        "something of each task). Grown: the process, at each T."
    )
    report("A trial of T tasks", columns, rows, note)


def actors(counts: Sequence[int]) -> None:
    """The second table: what the actors of a replay trial hold that nobody shares with them, after the trial."""
    rows = []
    with connected("benchmark", None):
        for count in counts:
            _, spec = asked("replay", "{}", count)
            shards = StreamShards(catalog(), 1, None, name=f"benchmark-{count}")
            storage = ShardedStorage(1)
            trainer = Trainer(spec, RemoteSource(shards.names, spec.stream, 0), storage=storage)
            while not trainer.done:
                trainer.run_task()
            found = [f"{held(kind) / MEGABYTE:.0f}" for kind in ("StreamShard", "ReplayShard")]
            rows.append((str(count), *found))
            trainer.close()
            shards.close()
            time.sleep(2)  # until the processes have gone
    report("Actors of a trial of T tasks", ("tasks", "stream, MB", "replay, MB"), rows, "unique set size")


def held(kind: str) -> int:
    """Bytes of this cluster's processes of one class of actors."""
    found = (one for one in psutil.Process().children(recursive=True) if f"ray::{kind}" in " ".join(one.cmdline()))
    return sum(one.memory_full_info().uss for one in found)


def stopped_trial(folder: str, tasks: int) -> tuple[float, float]:
    """CPU seconds of the first step of a trial that goes on at nine tenths, and of one step more."""
    torch.set_num_threads(1)
    found, spec = asked("naive", "{}", tasks)
    results = ResultsFolder.create(folder, found.dumps(), found.hash)
    first = TrialSession(local_source(spec, None), results.trial(spec))
    for _ in range(9 * tasks // 10):
        first.step()
    source: LocalSource = local_source(spec, None)
    seconds = []
    again = TrialSession(source, results.trial(spec))
    for _ in range(2):
        began = time.process_time()
        again.step()
        seconds.append(time.process_time() - began)
    while again.step().verdict is None:
        pass
    return seconds[0], seconds[1]


def whole_matrix(folder: str, tasks: int) -> tuple[float, float]:
    """Bytes of a matrix of which every cell was measured, and CPU seconds until it is there."""
    found, spec = asked("naive", "{}", tasks)
    results = ResultsFolder.create(folder, found.dumps(), found.hash)
    store, random = results.trial(spec), np.random.default_rng(0)
    attempt = store.begin()
    for task in range(tasks):
        total = np.full(tasks, 50)
        accuracy = 0.1 + 0.8 * np.exp(-np.abs(np.arange(tasks) - task) / 20)
        store.write_task(attempt, task, [TaskRow(task, random.binomial(total, accuracy), total)], {})
    store.finish(Verdict("finished", "", 0.5, tasks - 1), {"num_tasks": tasks})
    began = time.process_time()
    (matrix,) = Results(folder).matrices.values()
    seconds = time.process_time() - began
    assert not np.isnan(matrix.accuracy).any()
    return sum(results.files.sizes("data/cells").values()), seconds


def folders(tasks: int) -> None:
    """The third table."""
    with tempfile.TemporaryDirectory(prefix="raycl-") as folder, tempfile.TemporaryDirectory(prefix="raycl-") as other:
        first, usual = apart(stopped_trial, folder, tasks)
        before = os.times()
        subprocess.run([sys.executable, "-m", "raycl", "show", folder], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        shown = sum(after[part] - before[part] for part in (2, 3))  # of children, user and system
        size, opened = apart(whole_matrix, other, tasks)
    rows = [
        (f"go on at task {9 * tasks // 10}, s", *judged(first - usual, 5.0, 2)),
        ("raycl show, s", *judged(shown, 3.0, 2)),
        ("whole matrix, MB", *judged(size / MEGABYTE, 2.0, 2)),
        ("whole matrix, s to open", *judged(opened, 0.2)),
    ]
    report(f"The folder of a trial of {tasks} tasks", ("what", "value", "goal"), rows, "seconds on the CPU")


def main(tasks: int) -> None:
    counts = (tasks // 10, 3 * tasks // 10, tasks)
    growth(counts)
    folders(tasks)
    actors(counts)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
