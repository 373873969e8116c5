"""EWC over class-incremental tasks: fine-tuning, a sampled and an exact Fisher information, and exact by autograd.

Permuted digits with ten new units a task, MLP 64-400-400, one epoch of batches of 128, so that the Fisher information
weighs as much as it can. By autograd it takes a backward pass for every active unit, which is what networks that are no
perceptrons do; perceptrons have a closed form. The goals: exact takes at most half the CPU seconds of autograd's at 30
tasks, and both differ by 1e-5 of the largest entry at most.

    OMP_NUM_THREADS=1 python benchmarks/fisher.py [tasks repeats]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from unittest import mock

import torch
from shared import interleaved, judged, learn, report, trial
from torch import nn

from raycl.learning import fisher
from raycl.learning.fisher import diagonal_fisher
from raycl.models.mlp import MLPConfig, build
from raycl.streams.source import LocalSource
from raycl.streams.task import Batch

GOAL, TOLERANCE = 0.5, 1e-5
GENERAL = partial(mock.patch.object, fisher, "is_perceptron", lambda _: False)


def run(tasks: int, strategy: str, options: str = "{}") -> None:
    """One trial."""
    stream = f"{{name: permuted, dataset: digits, tasks: {tasks}, scenario: class}}"
    spec = trial(strategy, options, stream=stream)
    learn(spec, LocalSource(spec.stream, 0))


def by_autograd(method: Callable[[], object]) -> Callable[[], object]:
    """A method, with a backward pass for every unit."""

    def patched() -> object:
        with GENERAL():
            return method()

    return patched


def difference(units: int) -> float:
    """The largest of both ways, relative to the largest entry of its parameter."""
    generator = torch.Generator().manual_seed(0)
    network = build(MLPConfig(), (1, 8, 8), generator)
    network.grow_head(units)
    x, y = torch.rand(128, 1, 8, 8, generator=generator), torch.randint(units, (128,), generator=generator)
    batch = Batch(x, x, y, torch.zeros_like(y), torch.zeros(128, dtype=torch.bool))

    def of(network: nn.Module) -> dict[str, torch.Tensor]:
        everything = torch.ones(128, units, dtype=torch.bool)
        return diagonal_fisher(network, [batch], lambda _: everything, "exact", generator)

    ours, theirs = of(network), by_autograd(partial(of, network))()
    assert isinstance(theirs, dict)
    return max(float((ours[name] - value).abs().max() / value.max()) for name, value in theirs.items())


def main(tasks: int, repeats: int) -> None:
    torch.set_num_threads(1)
    sides: dict[str, Callable[[], object]] = {
        "naive": partial(run, tasks, "naive"),
        "sampled": partial(run, tasks, "ewc", "{fisher: sampled}"),
        "exact": partial(run, tasks, "ewc"),
        "exact, by autograd": by_autograd(partial(run, tasks, "ewc")),
    }
    seconds = {name: side.cpu for name, side in interleaved(sides, repeats).items()}
    slowest = seconds["exact, by autograd"]
    rows = [(name, f"{value:.2f}", f"{value / seconds['naive']:.1f}") for name, value in seconds.items()]
    share, goal = judged(seconds["exact"] / slowest, GOAL, 2)
    report("EWC over class-incremental tasks", ("Fisher information", "CPU, s", "times naive"), rows, "")
    apart, tolerance = judged(difference(10 * tasks), TOLERANCE, 8)
    rows = [("exact over autograd's", share, goal), ("difference", apart, tolerance)]
    note = f"{tasks} tasks of permuted digits, {10 * tasks} units in the end; one thread, medians of {repeats} turns"
    report("What a closed form saves", ("", "value", "goal"), rows, note)


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:3] or (30, 1)))
