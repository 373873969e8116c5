"""GEM's projection against twenty old tasks: gradients from one pass over all of them, against one for each.

The loop is the definition: a forward pass and autograd for every old task, and a projection on what they give. Both
sides take the same rows, on one thread and in float32, and the new gradient points against all old ones. Where a task
keeps few rows, linear layers leave their gradients in factors; where it keeps many, they are formed, by the same
multiplications as the loop's; networks with convolutions are the loop. The goals: not slower anywhere, 1.5 times as
fast with an MLP at 20 rows a task, at most 3 times the time of one old task with nine of 10 rows each (an update learns
ten rows beside them), and equal to 1e-6 in float64.

    OMP_NUM_THREADS=1 python benchmarks/gem.py [repeats]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
from shared import interleaved, judged, report
from torch import Tensor, nn

from raycl.learning.grouped_gradients import GroupedGradients, GroupGradients
from raycl.learning.projection import project
from raycl.models.cnn import CNNConfig
from raycl.models.cnn import build as build_cnn
from raycl.models.mlp import MLPConfig
from raycl.models.mlp import build as build_mlp
from raycl.models.network import Network

TASKS, CLASSES, SHAPE = 20, 10, (1, 28, 28)
GOAL, NOISE, TOLERANCE = {20: 1.5, 256: 1.0}, 0.1, 1e-6
GROWTH, FEW_ROWS = 3.0, 10
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


def grouped(gradients: GroupedGradients, x: Tensor, y: Tensor, count: int, tasks: int = TASKS) -> GroupGradients:
    """raycl's, of the first tasks."""

    def losses(rows: slice, logits: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, y[rows], reduction="none")

    return gradients(x[: count * tasks], losses, [count] * tasks)


def difference(network: Network, x: Tensor, y: Tensor, count: int) -> float:
    """The largest of a product in float64, relative to the largest one."""
    network.double()
    theirs = looped(network, x.double(), y, count)
    ours = grouped(GroupedGradients(network, x[:1].double()), x.double(), y, count)
    network.float()
    products = theirs @ theirs.T
    return float((ours.gram() - products).abs().max() / products.abs().max())


def problem(name: str, count: int) -> tuple[Network, Tensor, Tensor, Tensor]:
    """A network, rows and labels of old tasks, and a new gradient."""
    generator = torch.Generator().manual_seed(0)
    network = MODELS[name][0](generator)
    network.grow_head(CLASSES)
    x = torch.rand(TASKS * count, *SHAPE, generator=generator)
    y = torch.randint(CLASSES, (len(x),), generator=generator)
    past = looped(network, x, y, count)
    return network, x, y, torch.randn(past.shape[1], generator=generator) * past.std() - past.sum(0)


def measured(name: str, count: int, repeats: int) -> tuple[str, ...]:
    """One row of the table."""
    network, x, y, new = problem(name, count)
    gradients = GroupedGradients(network, x[:1])

    def loop() -> Tensor:
        past = looped(network, x, y, count)
        return project(new, GroupGradients({(0, len(new)): past}, ()), 0.5)

    def ours() -> Tensor:
        return project(new, grouped(gradients, x, y, count), 0.5)

    before, after = (side.cpu for side in interleaved({"loop": loop, "raycl": ours}, repeats).values())
    ratio, apart = before / after, difference(network, x, y, count)
    goal = GOAL[count] if name.startswith("mlp") else 1.0
    colour = "green" if ratio >= goal - NOISE and apart <= TOLERANCE else "red"
    times = (f"{1e3 * value:.1f}" for value in (before, after))
    return f"{name}, {count} rows", *times, f"[{colour}]{ratio:.2f}[/]", f"{goal:g}", f"{apart:.0e}"


def growth(name: str, repeats: int) -> tuple[str, ...]:
    """An update with one old task, and with nine: their projection, and the learning of ten rows."""
    network, x, y, new = problem(name, FEW_ROWS)
    gradients = GroupedGradients(network, x[:1])

    def update(tasks: int) -> Tensor:
        looped(network, x[:FEW_ROWS], y[:FEW_ROWS], FEW_ROWS)
        return project(new, grouped(gradients, x, y, FEW_ROWS, tasks), 0.5)

    one, nine = (side.cpu for side in interleaved({"1": partial(update, 1), "9": partial(update, 9)}, repeats).values())
    ratio, goal = judged(nine / one, GROWTH, 2)
    return name, f"{1e3 * one:.1f}", f"{1e3 * nine:.1f}", ratio, goal


def main(repeats: int) -> None:
    torch.set_num_threads(1)
    rows = [measured(name, count, repeats) for name, (_, counts) in MODELS.items() for count in counts]
    columns = ("a task keeps", "loop, ms", "raycl, ms", "times faster", "goal", "difference")
    note = f"{TASKS} old tasks, random images of MNIST's shape; CPU time of one thread, medians of {repeats} turns"
    report("Gradients of twenty old tasks, and the projection", columns, rows, note)
    rows = [growth(name, repeats) for name in ("mlp 2 x 100", "mlp 2 x 400")]
    report("An update as old tasks add up, 10 rows each", ("", "one, ms", "nine, ms", "times", "goal"), rows, "")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 31)
