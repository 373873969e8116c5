"""What orchestration adds to a trial: a sweep of trivial trials on Ray against the same trials here, one by one.

Both sides store rows and checkpoints. The slope between a short and a long sweep is the cost of a trial; the rest is
the start of Ray, its workers and their imports.

    OMP_NUM_THREADS=1 python benchmarks/sweep_overhead.py [trials]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from shared import judged, local_source, report, sweep

from raycl.results.store import ResultsFolder
from raycl.spec.sweep import SweepSpec
from raycl.sweep.run import run_sweep
from raycl.trial.session import TrialSession

GOAL = 0.5
SHORT = 4
TRIVIAL = {
    "stream": "{name: split, dataset: digits, tasks: 2}",
    "model": "{name: mlp, hidden: [8]}",
    "training": "{iterations: 1}",
}


def on_ray(trials: SweepSpec, folder: Path) -> float:
    """Wall seconds of the sweep, the start of Ray included."""
    started = time.perf_counter()
    outcome = run_sweep(trials, folder)
    assert outcome.complete, outcome.reason
    return time.perf_counter() - started


def in_process(trials: SweepSpec, folder: Path) -> float:
    """Wall seconds of the same trials here."""
    started = time.perf_counter()
    results = ResultsFolder.create(str(folder), trials.dumps(), trials.hash)
    for seed in trials.final.runs if trials.final else ():
        spec = trials.trial(trials.entries[0], {}, seed, "final")
        session = TrialSession(local_source(spec, None), results.trial(spec))
        while session.step().verdict is None:
            pass
        session.close()
    return time.perf_counter() - started


def main(trials: int) -> None:
    torch.set_num_threads(1)
    rows = []
    for name, run in (("without Ray", in_process), ("on Ray", on_ray)):
        seconds = []
        for count in (SHORT, trials):
            with tempfile.TemporaryDirectory(prefix="raycl-") as folder:
                seconds.append(run(sweep("naive", range(count), **TRIVIAL), Path(folder) / "results"))
        each = (seconds[1] - seconds[0]) / (trials - SHORT)
        rows.append((name, f"{seconds[0] - SHORT * each:.1f}", *judged(each, GOAL)))
    note = f"two tasks of one update on digits; slope from {SHORT} to {trials} trials"
    report("Seconds of orchestration", ("trials", "start", "each trial", "goal"), rows, note)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 44)
