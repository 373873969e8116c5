"""Memory of each additional trial that runs at the same time on MNIST: images in the object store or a copy each.

Proportional set size (shared pages are split among the processes that map them), summed over the trials' processes,
after each trial has learned its first task. The slope over the number of trials is what one more costs.

    OMP_NUM_THREADS=1 python benchmarks/memory_per_trial.py [trials]
"""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import ray
import torch
from shared import local_source, mnist_root, report, trial

from raycl.catalog import catalog
from raycl.distributed.cluster import connected
from raycl.distributed.streams import RemoteSource, ShardNames, StreamShards
from raycl.trial.trainer import Trainer

MEGABYTE = 2**20
DATA = 70_000 * 784
"""Bytes of MNIST's images."""


class RunningTrial:
    """A trial in a process of its own that has learned one task and holds on to everything."""

    def __init__(self, shards: ShardNames | None, root: str) -> None:
        torch.set_num_threads(1)
        spec = trial("naive")
        source = RemoteSource(shards, spec.stream, 0) if shards else local_source(spec, Path(root))
        self._trainer = Trainer(spec, source)
        self._trainer.run_task()

    def memory(self) -> tuple[float, float]:
        """Proportional and unique set size in megabytes."""
        info = psutil.Process().memory_full_info()
        return info.pss / MEGABYTE, info.uss / MEGABYTE


def measure(trials: int, shards: ShardNames | None, root: Path) -> list[tuple[float, float]]:
    """Summed sizes of 1, 2, ... trials side by side."""
    actor = ray.remote(num_cpus=0)(RunningTrial)
    running, sizes = [], []
    for _ in range(trials):
        running.append(actor.remote(shards, str(root)))
        each = ray.get([one.memory.remote() for one in running])
        sizes.append((sum(pss for pss, _ in each), sum(uss for _, uss in each)))
    for one in running:
        ray.kill(one)
    return sizes


def main(trials: int) -> None:
    rows = []
    with mnist_root() as (root, data), connected("benchmark", None):
        shards = StreamShards(catalog(), 1, root, name="benchmark")
        for name, names in (("shared through actors", shards.names), ("a copy each", None)):
            sizes = measure(trials, names, root)
            (first_pss, first_uss), (last_pss, last_uss) = sizes[0], sizes[-1]
            more = [(last - first) / (trials - 1) for first, last in ((first_pss, last_pss), (first_uss, last_uss))]
            rows.append((name, f"{first_pss:.0f}", f"{more[0]:.0f}", f"{more[1]:.0f}"))
        shards.close()
    note = (
        f"{data}: its images are {DATA / MEGABYTE:.0f} MB. {trials} trials; what remains is each process's own Python, "
        "torch and network. Goal: one more trial costs less than a copy each, by about the size of the images."
    )
    columns = ("images", "first trial, PSS", "one more, PSS", "one more, USS")
    report("Megabytes of trials side by side", columns, rows, note)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
