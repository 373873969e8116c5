"""GEM's gradients of twenty old tasks, one pass over all of them against one for each, and the projection after it.

The loop is the definition: a forward pass and autograd for every old task. Both sides take the same rows, on one thread
and in float32. A pass over all tasks does the same multiplications, so that what it saves is the overhead of twenty
passes: much where a task keeps few rows, next to nothing where the products themselves take the time. The goals: not
slower anywhere, 1.5 times as fast with MLP 2 x 100 at 20 rows a task, equal to 1e-6 in float64, and a projection in
less time than the gradients it projects.

    OMP_NUM_THREADS=1 python benchmarks/gem.py [repeats]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
from shared import interleaved, report
from torch import Tensor, nn

from raycl.learning.grouped_gradients import GroupedGradients
from raycl.learning.projection import project
from raycl.models.cnn import CNNConfig
from raycl.models.cnn import build as build_cnn
from raycl.models.mlp import MLPConfig
from raycl.models.mlp import build as build_mlp
from raycl.models.network import Network

TASKS, CLASSES, SHAPE = 20, 10, (1, 28, 28)
GOAL, NOISE, TOLERANCE = {20: 1.5, 256: 1.0}, 0.1, 1e-6
MODELS: dict[str, tuple[Callable[[torch.Generator], Network], tuple[int, ...]]] = {
    "mlp 2 x 100": (lambda generator: build_mlp(MLPConfig(hidden=(100, 100)), SHAPE, generator), (20, 256)),
    "mlp 2 x 400": (lambda generator: build_mlp(MLPConfig(hidden=(400, 400)), SHAPE, generator), (20, 256)),
    "cnn": (lambda generator: build_cnn(CNNConfig(), SHAPE, generator), (20,)),
}


def looped(network: Network, x: Tensor, y: Tensor, count: int) -> Tensor:
    """The definition, a task at a time."""
    gradients = []
    for start in range(0, len(x), count):
        rows = slice(start, start + count)
        loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
        parts = torch.autograd.grad(loss, list(network.parameters()))
        gradients.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(gradients)


def grouped(gradients: GroupedGradients, x: Tensor, y: Tensor, count: int) -> Tensor:
    """raycl's."""

    def losses(rows: slice, logits: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, y[rows], reduction="none")

    return gradients(x, losses, [count] * TASKS)


def difference(network: Network, x: Tensor, y: Tensor, count: int) -> float:
    """The largest in float64, relative to the largest entry."""
    network.double()
    theirs = looped(network, x.double(), y, count)
    ours = grouped(GroupedGradients(network, x[:1].double()), x.double(), y, count)
    network.float()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def measured(name: str, count: int, repeats: int) -> tuple[str, ...]:
    """One row of the table."""
    generator = torch.Generator().manual_seed(0)
    network = MODELS[name][0](generator)
    network.grow_head(CLASSES)
    x = torch.rand(TASKS * count, *SHAPE, generator=generator)
    y = torch.randint(CLASSES, (len(x),), generator=generator)
    gradients = GroupedGradients(network, x[:1])
    past = grouped(gradients, x, y, count)
    new = torch.randn(past.shape[1], generator=generator) - past.sum(0)
    sides: dict[str, Callable[[], object]] = {
        "loop": partial(looped, network, x, y, count),
        "raycl": partial(grouped, gradients, x, y, count),
        "projection": partial(project, new, past, 0.5),
    }
    loop, ours, projection = (side.cpu for side in interleaved(sides, repeats).values())
    ratio, goal, apart = loop / ours, GOAL[count] if name == "mlp 2 x 100" else 1.0, difference(network, x, y, count)
    met = ratio >= goal - NOISE and apart <= TOLERANCE and projection < ours
    times = (f"{1e3 * value:.1f}" for value in (loop, ours, projection))
    return f"{name}, {count} rows", *times, f"[{'green' if met else 'red'}]{ratio:.2f}[/]", f"{goal:g}", f"{apart:.0e}"


def main(repeats: int) -> None:
    torch.set_num_threads(1)
    rows = [measured(name, count, repeats) for name, (_, counts) in MODELS.items() for count in counts]
    columns = ("a task keeps", "loop, ms", "raycl, ms", "projection, ms", "times faster", "goal", "difference")
    note = f"{TASKS} old tasks, random images of MNIST's shape; CPU time of one thread, medians of {repeats} turns"
    report("The gradients of twenty old tasks, in one pass against twenty", columns, rows, note)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 31)
