"""Replay of 5,000 examples in one or two actors against the local buffer: batches of 128, draws requested one ahead.

OMP_NUM_THREADS=1 python benchmarks/remote_replay.py [repeats]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import ray
from shared import Seconds, interleaved, judged, learn, local_source, mnist_root, report, sweep

from raycl.distributed.cluster import connected
from raycl.distributed.replay import ShardedStorage
from raycl.memory.local import LocalStorage
from raycl.spec.trial import TrialSpec
from raycl.streams.task import TaskSource

GOAL = 1.1
CAPACITY = 5_000
ACTORS = (1, 2)


def main(repeats: int) -> None:
    found = sweep("replay", memory=f"{{capacity: {CAPACITY}}}")
    spec = found.trial(found.entries[0], {}, 0, "final")
    with mnist_root() as (root, data), connected("benchmark", None):
        source = local_source(spec, root)
        sides: dict[str, Callable[[], None]] = {"local": lambda: learn(spec, source, LocalStorage())}
        for count in ACTORS:
            sides[f"{count} actors"] = partial(_learn_remotely, spec, source, count)
            sides[f"{count} made and ended"] = partial(_make_and_end, count)
        taken = interleaved(sides, repeats)
        cpus = int(ray.cluster_resources()["CPU"])
    rows = [_row(taken, count, clock) for count in ACTORS for clock in ("wall", "cpu")]
    columns = ("seconds", "local", "remote", "start and end of actors", "ratio without these", "goal")
    note = f"{data}; capacity {CAPACITY:,}, five tasks of one epoch, medians of {repeats} turns, {cpus} cores"
    report("Replay memory in actors against one in the trial", columns, rows, note)


def _learn_remotely(spec: TrialSpec, source: TaskSource, actors: int) -> None:
    learn(spec, source, ShardedStorage(actors))


def _make_and_end(actors: int) -> None:
    ShardedStorage(actors).close()


def _row(taken: dict[str, Seconds], actors: int, clock: str) -> tuple[str, ...]:
    """Seconds on one clock: of the wall, or of the trial's process on the CPU."""
    local, remote, making = (
        getattr(taken[side], clock) for side in ("local", f"{actors} actors", f"{actors} made and ended")
    )
    name = f"{actors} actor{'s' * (actors > 1)}, {'wall' if clock == 'wall' else 'CPU of the trial'}"
    ratio = (remote - making) / local
    return (name, f"{local:.2f}", f"{remote:.2f}", f"{making:.2f}", *judged(ratio, GOAL))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
