"""Replay through an actor against the local buffer: one trial, batches of 128, draws requested one update ahead.

OMP_NUM_THREADS=1 python benchmarks/remote_replay.py [repeats]
"""

from __future__ import annotations

import sys

import ray
from shared import interleaved, judged, learn, mnist_root, report, trial

from raycl.distributed.cluster import connected
from raycl.distributed.replay import ShardedStorage
from raycl.memory.local import LocalStorage
from raycl.streams.source import LocalSource

GOAL = 1.1


def main(repeats: int) -> None:
    spec = trial("replay")
    with mnist_root() as (root, data), connected("benchmark", None):
        source = LocalSource(spec.stream, spec.seed, root)
        sides = {
            "local": lambda: learn(spec, source, LocalStorage()),
            "actor": lambda: learn(spec, source, ShardedStorage(1)),
            "making and ending an actor": lambda: ShardedStorage(1).close(),
        }
        local, actor, making = interleaved(sides, repeats).values()
        cpus = int(ray.cluster_resources()["CPU"])
    rows = []
    for clock, mine, theirs, start in (
        ("wall", local.wall, actor.wall, making.wall),
        ("CPU of the trial", local.cpu, actor.cpu, making.cpu),
    ):
        ratio = (theirs - start) / mine
        rows.append((clock, f"{mine:.2f}", f"{theirs:.2f}", f"{start:.2f}", *judged(ratio, GOAL)))
    columns = ("seconds", "local", "actor", "start and end of the actor", "ratio without these", "goal")
    note = f"{data}; five tasks of one epoch, medians of {repeats} turns, {cpus} cores"
    report("Replay memory in an actor against one in the trial", columns, rows, note)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
