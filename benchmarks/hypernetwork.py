"""A hypernetwork's update as tasks add up and beside one without, and how long 10,000 images take to tell their task.

Permuted MNIST with the authors' settings: target MLP 1024-1000-1000-10, generator 25-25, chunks of 78,000 weights. Then
ResNet-32 on images of 32 x 32 pixels, batches of 32, with the authors' generator (linear, chunks of 7,000 weights,
embeddings of 32 numbers) and without one, and with a part of its layers shared.

    OMP_NUM_THREADS=1 python benchmarks/hypernetwork.py [repeats]
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch
from shared import judged, local_source, mnist_root, report, trial

from raycl.spec.trial import TrialSpec
from raycl.streams.source import LocalSource
from raycl.trial.trainer import Trainer

GROWTH, SECONDS, BESIDE = 1.6, 30.0, 2.5
UPDATES = 20
AUTHORS = {1: 1.0, 2: 1.88, 10: 7.86}
"""CPU milliseconds of the authors' code, relative to task 1, where they were 39.5; measured on another machine."""
OPTIONS = (
    "{hidden: [25, 25], activation: elu, task_embedding_dim: 24, chunk_embedding_dim: 8, chunk_size: 78000, beta: 0.1}"
)
BLOCKS = {
    "stream": "{name: permuted, dataset: mnist, tasks: 10, scenario: domain, pad: 2, normalize: unit}",
    "model": "{name: mlp, hidden: [1000, 1000]}",
    "training": f"{{optimizer: adam, learning_rate: 1e-4, batch_size: 128, iterations: {UPDATES}}}",
}
RESNET = {
    "stream": "{name: split, dataset: digits, tasks: 5, scenario: task, pad: 12}",
    "model": "{name: resnet32, biases: true}",
    "training": f"{{optimizer: adam, learning_rate: 1e-3, batch_size: 32, iterations: {UPDATES}}}",
}
GENERATED = "hidden: [], task_embedding_dim: 32, chunk_embedding_dim: 32, chunk_size: 7000, beta: 0.05"
SHARED = {"the first stage": "7", "two stages": "12"}
"""Last shared layer of a partial hypernetwork."""


def states(spec: TrialSpec, source: LocalSource) -> tuple[Trainer, dict[int, dict[str, Any]]]:
    """A trainer that has learned all tasks, and what it was before each of some of them (counted from 1)."""
    running, found = Trainer(spec, source), {}
    while not running.done:
        if running.next_task + 1 in AUTHORS:
            found[running.next_task + 1] = running.state_dict()
        running.run_task()
    return running, found


def update_seconds(spec: TrialSpec, source: LocalSource, state: dict[str, Any]) -> float:
    """Median CPU seconds of the updates of the next task."""
    running, seconds = Trainer(spec, source), []
    running.load_state_dict(state)
    step = running.strategy.step

    def timed(*arguments: Any) -> Any:
        started = time.process_time()
        losses = step(*arguments)
        seconds.append(time.process_time() - started)
        return losses

    running.strategy.step = timed  # type: ignore[method-assign]
    running.run_task()
    return statistics.median(seconds)


def inference_seconds(running: Trainer) -> float:
    """Wall seconds to tell the tasks of 10,000 random images apart, and to answer."""
    x = torch.rand(10_000, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    strategy = running.strategy
    strategy.train(False)
    started = time.perf_counter()
    with torch.no_grad():
        for rows in x.split(1000):
            strategy.predict(rows, None)
    return time.perf_counter() - started


def beside_none(repeats: int) -> dict[str, float]:
    """Median CPU seconds of an update of ResNet-32's second task, of each method."""
    options = {"without": ("naive", "{}"), "generated": ("hypernetwork", f"{{{GENERATED}}}")}
    for name, layer in SHARED.items():
        options[f"shared: {name}"] = ("hypernetwork", f"{{{GENERATED}, layer: '{layer}'}}")
    specs = {name: trial(strategy, own, **RESNET) for name, (strategy, own) in options.items()}
    before = {}
    for name, spec in specs.items():
        running = Trainer(spec, source := local_source(spec, None))
        running.run_task()
        before[name] = running.state_dict()
    turns = [
        {name: update_seconds(specs[name], source, state) for name, state in before.items()} for _ in range(repeats)
    ]
    return {name: statistics.median(turn[name] for turn in turns) for name in specs}


def main(repeats: int) -> None:
    torch.set_num_threads(1)
    resnet = beside_none(repeats)
    rows = [(name, f"{1e3 * own:.1f} ms", f"{own / resnet['without']:.2f}") for name, own in resnet.items()]
    report("ResNet-32's update, second task", ("weights", "time", "to without"), rows, f"medians of {repeats} turns")
    spec = trial("hypernetwork", OPTIONS, **BLOCKS)
    with mnist_root() as (root, data):
        source = local_source(spec, root)
        learned, before = states(spec, source)
        turns = [{task: update_seconds(spec, source, state) for task, state in before.items()} for _ in range(repeats)]
        inference = min(inference_seconds(learned) for _ in range(repeats))
    found = {task: statistics.median(turn[task] for turn in turns) for task in before}
    rows = [
        (f"update of task {task}", f"{1e3 * seconds:.1f} ms", f"{seconds / found[1]:.2f}", f"{AUTHORS[task]:.2f}")
        for task, seconds in found.items()
    ]
    note = f"{data}; CPU time of {UPDATES} updates, medians of {repeats} turns, one thread"
    report("A hypernetwork's update", ("", "time", "to task 1", "authors' code"), rows, note)
    goals = (
        ("update of task 10 to that of task 2", *judged(found[10] / found[2], GROWTH, 2)),
        ("ResNet-32's update, generated to without", *judged(resnet["generated"] / resnet["without"], BESIDE, 2)),
        ("task inference, 10 tasks, 10,000 images, seconds", *judged(inference, SECONDS, 1)),
    )
    report("Goals", ("", "measured", "goal, at most"), goals, "random images for the inference; wall time, best turn")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
