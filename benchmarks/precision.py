"""What ``training.precision: bf16`` costs or saves on this processor, beside float32.

CPU seconds of learning two tasks of Split MNIST, by turns, naive and replay, after one turn that does not count; and
the mean accuracy in the end, which says what it costs otherwise (on random images, without a data root, nothing).

    OMP_NUM_THREADS=1 RAYCL_DATA=DATA python benchmarks/precision.py [repeats]

A processor without bfloat16 products (``avx512_bf16`` or ``amx_bf16`` in /proc/cpuinfo) makes them of float32 ones.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from shared import local_source, mnist_root, trial

from raycl.matrix import AccuracyMatrix
from raycl.spec.trial import TrialSpec
from raycl.streams.source import LocalSource
from raycl.trial.trainer import Trainer

MODELS = {
    "mlp 100-100": ("{name: mlp, hidden: [100, 100]}", 4096),
    "mlp 400-400": ("{name: mlp, hidden: [400, 400]}", 4096),
    "mlp 2000-2000": ("{name: mlp, hidden: [2000, 2000]}", 1024),
    "resnet18, width 20": ("{name: resnet18, width: 20}", 256),
}
BATCH = 128
"""Rows of an update."""
PRECISIONS = ("float32", "bf16")


def learned(spec: TrialSpec, source: LocalSource) -> tuple[float, float]:
    """CPU seconds of learning, and the mean accuracy in the end."""
    running = Trainer(spec, source)
    rows, spent = [], 0.0
    while not running.done:
        rows += running.run_task()
        spent += rows[-1].cost.cpu_seconds
    accuracy = AccuracyMatrix.of(rows, running.num_tasks).accuracy
    return spent, float(accuracy[-1].mean())


def asked(method: str, model: str, rows: int, precision: str) -> TrialSpec:
    stream = "{name: split, dataset: mnist, tasks: 2, scenario: class, class_order: fixed, train_per_task: "
    return trial(
        method,
        stream=f"{stream}{rows}}}",
        model=model,
        training=f"{{optimizer: sgd, learning_rate: 0.05, batch_size: {BATCH}, epochs: 1, precision: {precision}}}",
        memory=f"{{capacity: 500, batch_size: {BATCH}, home: local}}",
        evaluation="{future_tasks: false, max_examples: 500}",
    )


def line(name: str, method: str, repeats: int, root: Path) -> str:
    """A line of the table: medians of CPU seconds, and of their ratios in one turn."""
    specs = {precision: asked(method, *MODELS[name], precision) for precision in PRECISIONS}
    source = local_source(specs["bf16"], root)
    found = [{key: learned(spec, source) for key, spec in specs.items()} for _ in range(repeats + 1)][1:]
    seconds = " | ".join(f"{statistics.median(one[key][0] for one in found):.2f}" for key in specs)
    times = statistics.median(one["bf16"][0] / one["float32"][0] for one in found)
    accuracies = ", ".join(f"{100 * found[-1][key][1]:.1f}" for key in specs)
    return f"| {name} | {method} | {seconds} | {times:.2f} | {accuracies} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repeats", nargs="?", type=int, default=5)
    repeats = parser.parse_args().repeats
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    told = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    with mnist_root() as (root, data):
        print(f"{data}; a processor with {', '.join(told) or 'none of the extensions that matter'}")
        print("| model | method | float32, CPU s | bf16, CPU s | times | accuracy %, float32 and bf16 |")
        print("|---|---|---|---|---|---|")
        for name in MODELS:
            for method in ("naive", "replay"):
                print(line(name, method, repeats, root), flush=True)


if __name__ == "__main__":
    main()
