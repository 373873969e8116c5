"""Rows that a replay memory in this process takes per second, offered in batches of 10, by policy and classes.

OMP_NUM_THREADS=1 python benchmarks/insertion.py [repeats]
"""

from __future__ import annotations

import sys
import time

import torch
from shared import report

from raycl.memory.local import LocalStorage
from raycl.memory.replay import ReplayMemory
from raycl.spec.memory import MemoryConfig

GOAL = 50_000
ROWS, BATCH = 10_000, 10


def rows_per_second(policy: str, capacity: int, classes: int) -> float:
    """MNIST-sized rows whose classes come in turn, by this process's CPU time."""
    memory = ReplayMemory(MemoryConfig(capacity=capacity), policy, torch.Generator().manual_seed(0), LocalStorage())
    image = torch.zeros(BATCH, 1, 28, 28, dtype=torch.uint8)
    labels = torch.arange(ROWS).remainder(classes).split(BATCH)
    started = time.process_time()
    for label in labels:
        memory.add({"image": image, "label": label, "task": label // 2})
    return ROWS / (time.process_time() - started)


def main(repeats: int) -> None:
    torch.set_num_threads(1)
    rows = []
    for policy in ("reservoir", "class_balanced", "greedy", "ranked", "ring"):
        for capacity in (500, 5_000):
            speeds = [max(rows_per_second(policy, capacity, classes) for _ in range(repeats)) for classes in (2, 1_000)]
            color = "green" if min(speeds) >= GOAL else "red"
            rows.append((policy, f"{capacity:,}", *(f"[{color}]{speed:,.0f}[/]" for speed in speeds), f"{GOAL:,}"))
    note = f"{ROWS:,} rows of 28 x 28 pixels in batches of {BATCH}, best of {repeats} turns"
    columns = ("policy", "capacity", "2 classes", "1,000 classes", "goal, at least")
    report("Rows inserted per second", columns, rows, note)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
