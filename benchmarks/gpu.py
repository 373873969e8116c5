"""A GPU's worth: a ResNet-18 trial beside a bare loop on one device, and sixteen small trials that share it.

First, Split MNIST (or random images of its shape), ResNet-18 of width 20, SGD, batch 32, naive and replay: raycl's
trainer beside a bare PyTorch loop with its data on the device, seconds on the wall after a synchronisation, by turns.
Second, sixteen trials of an MLP as a sweep on Ray with ``resources: {gpus: 0.0625}``, beside one trial alone: how many
times its seconds they take together.

    python benchmarks/gpu.py [repeats]

Needs a CUDA device, and says so where there is none; ``--device cpu`` goes through the first part on the CPU, to see
that the script runs. Goals: at most 1.2 times the bare loop, and sixteen trials in at most four times the seconds of
one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from shared import judged, mnist_root, report, sweep
from torch import Tensor, nn

import raycl
from raycl.catalog import catalog
from raycl.spec.trial import TrialSpec
from raycl.streams.source import LocalSource
from raycl.trial.trainer import Trainer

GOAL, SHARED_GOAL, TOGETHER = 1.2, 4.0, 16
BLOCKS = {
    "model": "{name: resnet18, width: 20}",
    "stream": "{name: split, dataset: mnist, tasks: 2, scenario: class, class_order: fixed, train_per_task: 4096}",
    "training": "{optimizer: sgd, learning_rate: 0.1, batch_size: 32, epochs: 1}",
    "memory": "{capacity: 1000, batch_size: 32, home: local}",
}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bare(spec: TrialSpec, source: LocalSource, device: torch.device) -> None:
    """The same network over the same rows, which lie on the device."""
    config = spec.setting(catalog()).model
    build = catalog().models.get(config.name).build
    network = build(config, source.layout.image_shape, torch.Generator().manual_seed(0)).to(device)
    network.grow_head(2 * source.layout.num_tasks)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for task in range(source.layout.num_tasks):
        part = source.part(task, "train")
        images = torch.from_numpy(part.images[part.rows]).to(device)
        labels = (torch.from_numpy(part.labels).long() + 2 * task).to(device)
        for index in torch.randperm(len(labels)).to(device).split(32):
            descend(network, optimizer, images[index].float() / 255, labels[index])


def descend(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(network(x), y).backward()
    optimizer.step()


def learned(spec: TrialSpec, source: LocalSource, device: torch.device) -> None:
    trainer = Trainer(spec, source, device=device)
    while not trainer.done:
        trainer.run_task()
    trainer.close()


def seconds(run: Callable[[], None], device: torch.device) -> float:
    wait(device)
    begun = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - begun


def beside_a_bare_loop(root: Path, device: torch.device, repeats: int) -> list[tuple[str, ...]]:
    rows = []
    for method in ("naive", "replay"):
        asked = sweep(method, **BLOCKS)
        spec = asked.trial(asked.entries[0], {}, 0, "final")
        source = LocalSource(catalog(), spec.setting(catalog()).stream, 0, root)
        sides = {"bare": lambda: bare(spec, source, device), "raycl": lambda: learned(spec, source, device)}  # noqa: B023
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(repeats + 1):
            for name, run in sides.items():
                found = seconds(run, device)
                taken[name] += [found] if turn else []  # the first warms up
        one, other = (statistics.median(taken[name]) for name in sides)
        goal = GOAL if method == "naive" else 2 * GOAL  # replay learns twice as many rows
        rows.append((method, f"{one:.2f}", f"{other:.2f}", *judged(other / one, goal)))
    return rows


def side_by_side(root: Path) -> tuple[str, ...]:
    """Sixteen trials on a sixteenth of the device each, beside one."""
    taken = []
    for count in (1, TOGETHER):
        asked = sweep("naive", seeds=range(count), resources=f"{{cpus: 1, gpus: {1 / TOGETHER}}}")
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            raycl.run(asked, Path(folder) / "results", backend="ray", data_root=root)
            taken.append(time.perf_counter() - begun)
    return f"{TOGETHER} trials", *(f"{value:.1f}" for value in taken), *judged(taken[1] / taken[0], SHARED_GOAL)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("repeats", nargs="?", type=int, default=3)
    arguments.add_argument("--device", default="cuda")
    chosen = arguments.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here; --device cpu goes through the first part on the CPU")
        return
    device = torch.device(chosen.device)
    with mnist_root() as (root, data):
        rows = beside_a_bare_loop(root, device, chosen.repeats)
        report(f"On {device}", ("method", "bare loop", "raycl", "ratio", "goal"), rows, f"{data}; seconds on the wall")
        if device.type == "cuda":
            names = ("", "one trial", "together", "ratio", "goal")
            report("Trials that share a device", names, [side_by_side(root)], "whole sweeps, start included")


if __name__ == "__main__":
    main()
