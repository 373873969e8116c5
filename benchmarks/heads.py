"""What an update costs as heads per task add up: fine-tuning and EWC, task-incremental, by tasks begun.

Permuted digits, ten units a task, an MLP 64-100-100, Adam, batches of 10, one thread. ``whole`` multiplies and steps
the heads of all tasks, as streams of up to 100 tasks do; ``own`` those of the current task, as longer ones do.

    OMP_NUM_THREADS=1 python benchmarks/heads.py [turns]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator

import torch
from shared import local_source, report, trial

from raycl.strategies.base import Position, Source
from raycl.streams import scenario
from raycl.trial.trainer import Trainer

TASKS = (1, 10, 100, 1000)
UPDATES = 20


def updates(strategy: str, tasks: int, own: bool) -> Iterator[None]:
    """Updates of the latest of so many tasks; earlier ones have only begun."""
    scenario.long_head = lambda tasks: own  # what the number of tasks decides
    stream = "{name: permuted, dataset: digits, tasks: 1000, scenario: task}"
    training = "{optimizer: adam, learning_rate: 1e-3, batch_size: 10, epochs: 1}"
    spec = trial(strategy, stream=stream, training=training, model="{name: mlp, hidden: [100, 100]}")
    trainer = Trainer(spec, local_source(spec, None))
    learner, task = trainer.strategy, tasks - 1
    for earlier in range(tasks):
        learner.grow(earlier)
    trainer._build_optimizers(task, False)
    pool, _ = trainer._rows.pool(Source.CURRENT, task)
    at = Position(task, "train", 0, 0, 0.0, False)
    while True:
        for batch in pool.batches(torch.randperm(len(pool)), 10):
            scenario.long_head = lambda tasks: own
            learner.step(batch, at)
            yield


def main(turns: int) -> None:
    torch.set_num_threads(1)
    rows = []
    for strategy in ("naive", "ewc"):
        for tasks in TASKS:
            sides = {own: updates(strategy, tasks, own) for own in (False, True)}
            taken: dict[bool, list[float]] = {own: [] for own in sides}
            for _ in range(turns + 1):
                for own, side in sides.items():
                    started = time.process_time()
                    for _ in range(UPDATES):
                        next(side)
                    taken[own].append((time.process_time() - started) / UPDATES * 1e6)
            whole, alone = (statistics.median(taken[own][1:]) for own in (False, True))
            rows.append((strategy, f"{tasks:,}", f"{whole:,.0f}", f"{alone:,.0f}", f"{whole / alone:.2f}"))
    note = f"microseconds of CPU per update, medians of {turns} turns of {UPDATES} updates"
    report("Heads per task", ("method", "tasks begun", "whole", "own", "times"), rows, note)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
