"""A sweep of many short trials: what raycl adds to them, what its driver costs, and whether anything grows with them.

Each trial takes a second and next to no CPU (:mod:`waiting`), so that one machine can run as many as it has cores. The
sweep runs as a command of its own and is looked at from outside: its processes while it runs, its folder in the end.

    OMP_NUM_THREADS=1 python benchmarks/thousand_trials.py [trials] [ray | here]
"""

from __future__ import annotations

import bisect
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from shared import judged, mnist_root, report, trial

from raycl.catalog import catalog
from raycl.results.outcomes import Outcome
from raycl.results.store import ResultsFolder
from raycl.spec.sweep import SweepSpec
from raycl.streams.source import LocalSource, load_images
from raycl.sweep.ledger import Ledger
from raycl.sweep.suggestions import Suggester, sampler_seed

SECONDS, FINAL = 1.0, 5
MEGABYTE = 2**20
LOOK_SECONDS = 1.0
SWEEP = """
name: thousand_trials
stream: {{name: split, dataset: digits, tasks: 2, scenario: class, validation_fraction: 0.1}}
model: {{name: mlp, hidden: [8]}}
training: {{iterations: 1}}
memory: {{capacity: 100}}
strategies:
  one: {{strategy: waiting, seconds: {seconds}, {searched}}}
  two: {{strategy: waiting, seconds: {seconds}, {searched}}}
search: {{trials: {trials}, generation: 10, startup: 10, seeds: [0]}}
final: {{seeds: {seeds}}}
"""
SEARCHED = "first: {uniform: [0, 1]}, second: {uniform: [0, 1]}, third: {randint: [0, 1000]}"
Row = tuple[str, ...]


@dataclass
class Watched:
    """One process, looked at again and again.

    Attributes:
        times: seconds since the epoch; the other lists go with it.
        cpu: seconds since the process began.
        own: megabytes that are this process's alone.
    """

    times: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)

    def look(self, process: psutil.Process) -> None:
        times, own = process.cpu_times(), process.memory_full_info().uss
        self.times.append(time.time())
        self.cpu.append(times.user + times.system)
        self.own.append(own / MEGABYTE)

    def share(self, start: float, end: float) -> float:
        """Of one core, between two times."""
        first, last = (min(bisect.bisect(self.times, at), len(self.times) - 1) for at in (start, end))
        return (self.cpu[last] - self.cpu[first]) / max(1e-9, self.times[last] - self.times[first])

    def memory(self, at: float) -> float:
        """Megabytes at a time."""
        return self.own[min(bisect.bisect(self.times, at), len(self.own) - 1)]


@dataclass(frozen=True)
class Ran:
    """A sweep that has run.

    Attributes:
        command: when it was given; ``began`` and ``ended`` are those of each trial, in order of ``began``.
        left: when the command came back.
    """

    command: float
    left: float
    began: Sequence[float]
    ended: Sequence[float]
    driver: Watched
    shard: float


def run(file: Path, folder: Path, backend: str) -> Ran:
    """Run the sweep file, and watch its driver and its stream actor."""
    code = Path(__file__).with_name("waiting.py")
    command = [sys.executable, "-m", "raycl", "run", str(file), "--results", str(folder), "--import", str(code)]
    driver, shard, started = Watched(), 0.0, time.time()
    with subprocess.Popen([*command, "--backend", backend], stdout=subprocess.DEVNULL) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None:
            try:
                driver.look(process)
                shard = max([shard, *_shards(process)])
            except (psutil.Error, OSError):
                pass
            time.sleep(LOOK_SECONDS)
        assert running.returncode == 0, f"the sweep left {running.returncode}"
    left = time.time()
    began, ended = zip(*sorted(_times(ResultsFolder.open(folder))), strict=True)
    return Ran(started, left, began, ended, driver, shard)


def _shards(process: psutil.Process) -> Iterator[float]:
    for child in process.children(recursive=True):
        if "StreamShard" in child.name() or "StreamShard" in " ".join(child.cmdline()[:1]):
            yield child.memory_full_info().uss / MEGABYTE


def _times(results: ResultsFolder) -> Iterator[tuple[float, float]]:
    """When each trial began, and when its verdict was written."""
    assert results.files.local is not None
    for spec in results.specs():
        verdict = results.files.local / "trials" / spec.hash / "verdict.json"
        yield results.trial(spec).began(), verdict.stat().st_mtime


def of_the_slots(ran: Ran, slots: int) -> list[Row]:
    """Where the time of the slots went."""
    count, span = len(ran.began), max(ran.ended) - ran.began[0]
    busy = sum(end - begin for begin, end in zip(ran.began, ran.ended, strict=True)) / (slots * span)
    beside = slots * span / count - SECONDS
    between = slots * span * (1 - busy) / max(1, count - slots)
    return [
        ("first trial, seconds after the command", *judged(ran.began[0] - ran.command, 8 if slots > 1 else 3, 1)),
        ("idle share of the slots", *judged(1 - busy, 0.1)),
        ("start of a further trial, seconds", *judged(between, 0.1)),
        ("all that is not the trial's second, seconds a trial", f"{beside:.3f}", ""),
        ("from the last verdict to the prompt, seconds", f"{ran.left - max(ran.ended):.1f}", ""),
    ]


def of_the_driver(ran: Ran) -> list[Row]:
    """What the driver costs, early and late in the sweep."""
    start, end = ran.began[0], max(ran.ended)
    fifth = (end - start) / 5
    shares = [ran.driver.share(start, start + fifth), ran.driver.share(end - fifth, end)]
    counts = [sum(at < start + fifth for at in ran.ended), sum(at >= end - fifth for at in ran.ended)]
    each = [1000 * share * fifth / max(1, count) for share, count in zip(shares, counts, strict=True)]
    sizes = [ran.driver.memory(start + fifth), ran.driver.memory(end)]
    return [
        ("driver, CPU milliseconds a trial, first fifth", f"{each[0]:.0f}", ""),
        ("driver, CPU milliseconds a trial, last fifth", f"{each[1]:.0f}", ""),
        ("driver, share of a core, first fifth", *judged(shares[0], 0.2)),
        ("driver, share of a core, last fifth", *judged(shares[1], 0.2)),
        ("driver, MB of its own, after a fifth", *judged(sizes[0], 600, 0)),
        ("driver, MB of its own, in the end", *judged(sizes[1], 600, 0)),
        ("stream actor, MB of its own", f"{ran.shard:.0f}", ""),
    ]


def of_the_folder(sweep: SweepSpec, folder: Path) -> list[Row]:
    """What is left, and how long it takes to read."""
    results = ResultsFolder.open(folder)
    trials = len(results.ended())
    files = [path for path in folder.rglob("*") if path.is_file()]
    started, cpu = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", "raycl", "show", str(folder)], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, os.times()
    taken = after.children_user + after.children_system - cpu.children_user - cpu.children_system
    return [
        ("trials", str(trials), ""),
        ("files a trial", f"{len(files) / trials:.1f}", ""),
        ("kilobytes a trial", f"{sum(path.stat().st_size for path in files) / trials / 1024:.1f}", ""),
        ("trials in MLflow", str(_logged(folder)), str(trials)),
        ("raycl show, seconds", *judged(wall, 5, 1)),
        ("raycl show, CPU seconds", f"{taken:.1f}", ""),
        ("one suggestion, milliseconds", *judged(1000 * _suggestion(sweep, results), 50, 0)),
    ]


def _logged(folder: Path) -> int:
    """Runs of trials that are whole in MLflow's database."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        return int(database.execute("SELECT count(*) FROM tags WHERE key = 'raycl.logged'").fetchone()[0])


def _suggestion(sweep: SweepSpec, results: ResultsFolder) -> float:
    """CPU seconds of one more suggestion, with all trials of the sweep among what it sees."""
    assert sweep.search is not None
    found = [record for record in map(Ledger(results).record, results.specs()) if record and record.spec.point]
    seen = [Outcome.of(record.spec.point, [record.verdict], [record.curve]) for record in found]
    suggester, taken = Suggester(sweep.entries[0].space, sweep.search), []
    suggester.draw(0, seen)
    for index in range(5):
        started = time.process_time()
        suggester.draw(sampler_seed(sweep.search, "one", index), seen)
        taken.append(time.process_time() - started)
    return min(taken)


def of_the_data(root: Path) -> list[Row]:
    """The peak of what a stream actor allocates for MNIST, over the bytes of its images."""
    spec = trial("naive")
    tracemalloc.start()
    source = LocalSource(catalog(), spec.setting(catalog()).stream, spec.seed, root)
    held = [source.layout, *(source.part(task, "train") for task in range(5))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    images = load_images("mnist", root)
    size = images.train_images.nbytes + images.test_images.nbytes
    return [(f"peak over the images' {size / MEGABYTE:.0f} MB, {len(held) - 1} tasks", *judged(peak / size, 2))]


def main(trials: int, backend: str) -> None:
    searched = trials // 2 - FINAL
    text = SWEEP.format(seconds=SECONDS, searched=SEARCHED, trials=searched, seeds=list(range(10, 10 + FINAL)))
    with mnist_root() as (root, data), tempfile.TemporaryDirectory(prefix="raycl-") as place:
        file, folder = Path(place) / "sweep.yaml", Path(place) / "results"
        file.write_text(text)
        ran = run(file, folder, backend)
        slots = min(os.cpu_count() or 1, trials) if backend == "ray" else 1
        sweep = SweepSpec.parse(text, catalog())
        rows = [*of_the_slots(ran, slots), *of_the_driver(ran), *of_the_folder(sweep, folder), *of_the_data(root)]
    note = f"{slots} slots, backend {backend}; each trial sleeps for {SECONDS:g} s. Peak of {data}."
    report(f"A sweep of {trials} trials", ("what", "measured", "goal"), rows, note)


if __name__ == "__main__":
    import waiting  # noqa: F401  # the folder that is read names it

    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, sys.argv[2] if len(sys.argv) > 2 else "ray")
