"""raycl beside avalanche-lib, for the methods that both have: CPU seconds of training and of evaluation.

Split MNIST, class-incremental, five tasks of 2,000 rows, one epoch, fused Adam, one thread; after each task all tasks
so far are evaluated, 1,000 rows each. At batch 128 with an MLP 784-400-400-10, and online, at batch 10 with
784-100-100-10. Memories keep 500 rows and give back as many as are new. Options are set so that both do the same
passes; where implementations differ (avalanche's GEM and A-GEM keep rows per experience, its DER makes one pass where
raycl's makes three) the work is each one's own. Sides go by turns, each in a process of its own.

The first run makes an environment for avalanche below ``.bench``, which shares torch with this one.

    OMP_NUM_THREADS=1 python benchmarks/beside_avalanche.py [repeats]
"""

from __future__ import annotations

import json
import site
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from shared import local_source, mnist_root, report, trial

from raycl.spec.trial import TrialSpec
from raycl.streams.source import LocalSource
from raycl.trial.trainer import Trainer

VERSION = "avalanche-lib==0.6.0"
PLACE = Path(__file__).parents[1] / ".bench" / "avalanche"
ROWS, TESTED, MEMORY = 2000, 1000, 500
SETTINGS = {"batch 128": (128, 400), "online": (10, 100)}


@dataclass(frozen=True)
class Pair:
    """One method under both names, with the options of each; BATCH stands for the batch size."""

    ours: str
    options: str
    theirs: str
    their_options: dict[str, object]


PAIRS = (
    Pair("naive", "{}", "Naive", {}),
    Pair("cumulative", "{}", "Cumulative", {}),
    Pair("ewc", "{penalty: 1.0, fisher: empirical}", "EWC", {"ewc_lambda": 1.0}),
    Pair("si", "{penalty: 1.0}", "SynapticIntelligence", {"si_lambda": 1.0}),
    Pair("mas", "{penalty: 1.0}", "MAS", {"lambda_reg": 1.0}),
    Pair("lwf", "{penalty: 1.0}", "LwF", {"alpha": 1.0, "temperature": 2.0}),
    Pair("replay", "{}", "Replay", {"mem_size": MEMORY}),
    Pair("derpp", "{alpha: 0.5, beta: 0.5}", "DER", {"mem_size": MEMORY, "alpha": 0.5, "beta": 0.5}),
    Pair("er_ace", "{}", "ER_ACE", {"mem_size": MEMORY}),
    Pair("mir", "{subsample: 200}", "MIR", {"mem_size": MEMORY, "subsample": 200}),
    Pair("agem", "{reference_batch_size: 128}", "AGEM", {"patterns_per_exp": 100, "sample_size": 128}),
    Pair("gem", "{}", "GEM", {"patterns_per_exp": 100}),
)
DRAWS = {"DER", "ER_ACE", "MIR"}
"""Those whose replayed rows are set by ``batch_size_mem``."""


def environment() -> Path:
    """The interpreter of an environment with avalanche in it."""
    python = PLACE / "bin" / "python"
    if not python.exists():
        venv.create(PLACE, with_pip=True)
        inside = next(PLACE.glob("lib/python*/site-packages"))
        (inside / "beside.pth").write_text("\n".join(site.getsitepackages()))
        subprocess.run([python, "-m", "pip", "install", "--quiet", VERSION, "qpsolvers[quadprog]"], check=True)
    return python


def ours(spec: TrialSpec, source: LocalSource) -> tuple[float, float]:
    torch.set_num_threads(1)
    trained, begun = 0.0, time.process_time()
    trainer = Trainer(spec, source)
    while not trainer.done:
        trained += trainer.run_task()[-1].cost.cpu_seconds
    trainer.close()
    return trained, time.process_time() - begun - trained


def theirs(python: Path, data: Path, pair: Pair, batch: int, width: int) -> tuple[float, float] | None:
    """None where this version of avalanche does not run it."""
    options = pair.their_options | ({"batch_size_mem": batch} if pair.theirs in DRAWS else {})
    side = Path(__file__).with_name("avalanche_side.py")
    command = [python, "-W", "ignore", side, data, pair.theirs, str(batch), str(width), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{pair.theirs}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    return found["training"], found["evaluation"]


def blocks(batch: int, width: int) -> dict[str, str]:
    return {
        "stream": "{name: split, dataset: mnist, tasks: 5, scenario: class, class_order: fixed, "
        f"train_per_task: {ROWS}}}",
        "model": f"{{name: mlp, hidden: [{width}, {width}]}}",
        "training": f"{{optimizer: adam, learning_rate: 1e-3, batch_size: {batch}, epochs: 1}}",
        "memory": f"{{capacity: {MEMORY}, batch_size: {batch}}}",
        "evaluation": f"{{future_tasks: false, max_examples: {TESTED}}}",
    }


def save(source: LocalSource, path: Path) -> None:
    """The very rows, as floats in [0, 1] and global classes."""
    columns = {}
    for split, most in (("train", ROWS), ("test", TESTED)):
        for task in range(source.layout.num_tasks):
            part = source.part(task, split)
            rows = part.rows[:most]
            columns[f"{split}_x{task}"] = part.images[rows].reshape(-1, 784).astype(np.float32) / 255
            columns[f"{split}_y{task}"] = part.labels[:most] + 2 * task
    np.savez(path, **columns)


def main(repeats: int) -> None:
    python = environment()
    with mnist_root() as (root, data), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.npz"
        for title, (batch, width) in SETTINGS.items():
            source = local_source(trial("naive", **blocks(batch, width)), root)
            save(source, path)
            rows = []
            for pair in PAIRS:
                spec = trial(pair.ours, pair.options, **blocks(batch, width))
                ours(spec, source)  # warm up
                turns = [(ours(spec, source), theirs(python, path, pair, batch, width)) for _ in range(repeats)]
                own = [statistics.median(side) for side in zip(*(turn[0] for turn in turns), strict=True)]
                found = [turn[1] for turn in turns if turn[1] is not None]
                other = [statistics.median(side) for side in zip(*found, strict=True)] or [float("nan")] * 2
                ratios = [theirs_ / ours_ for ours_, theirs_ in zip(own, other, strict=True)]
                shown = [f"{value:.2f}" for value in (own[0], other[0], ratios[0], own[1], other[1], ratios[1])]
                rows.append((pair.ours, *shown))
            names = ("method", "raycl", "avalanche", "times", "raycl, eval.", "avalanche, eval.", "times")
            note = f"{data}; CPU seconds of one thread, medians of {repeats} turns; times: avalanche's over raycl's"
            report(f"{title}: five tasks of {ROWS:,} rows", names, rows, note)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
