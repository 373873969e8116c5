"""Importances of parameters against a loop over single examples: the Fisher information, exact and empirical, and MAS.

The loop is the definition: one forward pass and autograd for every example, and with ``exact`` for every class. Both
sides take the same examples on one thread; raycl's takes them in batches of 128. The networks are those of
``model: mlp`` (1,024 - 400 - 400 - 10) and of ``model: cnn`` as they come. The goals: 20 times faster on the MLP, where
the gradient per example is never formed, 3 times on the CNN, where both sides do the same multiplications, and equal to
1e-5 of the largest entry of each parameter. That is judged in float64 on the first 100 examples: where pooling meets
equal pixels, as on MNIST's background, rounding decides which of them gets the gradient, and a batch rounds otherwise
than one image does. The difference in float32 is printed too.

    OMP_NUM_THREADS=1 python benchmarks/importances.py [examples repeats]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from shared import interleaved, local_source, mnist_root, report, trial
from torch import Tensor, nn

from raycl.learning.fisher import FisherLabels, diagonal_fisher
from raycl.learning.sensitivity import output_sensitivity
from raycl.models.cnn import CNNConfig
from raycl.models.cnn import build as build_cnn
from raycl.models.mlp import MLPConfig
from raycl.models.mlp import build as build_mlp
from raycl.models.network import Network
from raycl.streams.task import Batch

GOAL, TOLERANCE = {"mlp": 20.0, "cnn": 3.0}, 1e-5
CLASSES, BATCH, PIXELS, COMPARED = 10, 128, 32, 100

Importance = dict[str, Tensor]


def everything(batch: Batch) -> Tensor:
    """All units are active."""
    return torch.ones(len(batch), CLASSES, dtype=torch.bool)


def functions(logits: Tensor, label: Tensor, kind: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The functions whose gradients matter, of logits ``[1, classes]``, and what each weighs."""
    if kind == "mas":
        yield logits.square().sum(), torch.ones(())
        return
    log_p = logits.log_softmax(1)[0]
    for unit in range(CLASSES) if kind == "exact" else [int(label)]:
        yield log_p[unit], log_p[unit].detach().exp() if kind == "exact" else torch.ones(())


def one_by_one(network: nn.Module, batch: Batch, kind: str) -> Importance:
    """The definition, an example at a time."""
    named = dict(network.named_parameters())
    sums = {name: torch.zeros_like(p) for name, p in named.items()}
    for index in range(len(batch)):
        for value, weight in functions(network(batch.x[index : index + 1]), batch.y[index], kind):
            gradients = torch.autograd.grad(value, list(named.values()), retain_graph=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total.add_(weight * (gradient.abs() if kind == "mas" else gradient.square()))
    return {name: total / len(batch) for name, total in sums.items()}


def batched(network: nn.Module, batch: Batch, kind: str) -> Importance:
    """raycl's."""
    batches = [batch[slice(start, start + BATCH)] for start in range(0, len(batch), BATCH)]
    if kind == "mas":
        return output_sensitivity(network, batches, everything)
    labels: FisherLabels = "exact" if kind == "exact" else "empirical"
    return diagonal_fisher(network, batches, everything, labels, torch.Generator())


def difference(ours: Importance, theirs: Importance) -> float:
    """The largest, relative to the largest entry of its parameter."""
    return max(float((ours[name] - value).abs().max() / value.max()) for name, value in theirs.items())


def difference_in_float64(network: Network, batch: Batch, kind: str) -> float:
    """Of the first examples."""
    some = replace(batch[slice(COMPARED)], x=batch.x[:COMPARED].double())
    network.double()
    apart = difference(batched(network, some, kind), one_by_one(network, some, kind))
    network.float()
    return apart


def examples(count: int) -> tuple[Batch, str]:
    """Images of 32 x 32 pixels, as a batch, and what they are."""
    with mnist_root() as (root, data):
        source = local_source(trial("naive"), root)
        parts = [source.part(task, "train") for task in range(source.layout.num_tasks)]
        share = -(-count // len(parts))
        images = torch.cat([torch.from_numpy(part.images[part.rows[:share]]) for part in parts])[:count]
        y = torch.cat([torch.from_numpy(part.labels[:share]) + 2 * task for task, part in enumerate(parts)])[:count]
    x = nn.functional.pad(images.reshape(count, 1, 28, 28).float() / 255, (2, 2, 2, 2))
    return Batch(x, x, y, torch.zeros_like(y), torch.zeros(count, dtype=torch.bool)), data


def networks() -> dict[str, Network]:
    generator, shape = torch.Generator().manual_seed(0), (1, PIXELS, PIXELS)
    found = {"mlp": build_mlp(MLPConfig(), shape, generator), "cnn": build_cnn(CNNConfig(), shape, generator)}
    for network in found.values():
        network.grow_head(CLASSES)
    return found


def main(count: int, repeats: int) -> None:
    torch.set_num_threads(1)
    batch, data = examples(count)
    rows = []
    for model, network in networks().items():
        for kind in ("exact", "empirical", "mas"):
            found: dict[str, Importance] = {}

            def side(name: str, method: Callable[[nn.Module, Batch, str], Importance]) -> Callable[[], object]:
                return lambda: found.update({name: method(network, batch, kind)})  # noqa: B023

            seconds = interleaved({"loop": side("loop", one_by_one), "raycl": side("raycl", batched)}, repeats)
            ratio, apart = seconds["loop"].cpu / seconds["raycl"].cpu, difference_in_float64(network, batch, kind)
            met = ratio >= GOAL[model] and apart <= TOLERANCE
            apart32 = difference(found["raycl"], found["loop"])
            times = (f"{seconds['loop'].cpu:.2f}", f"{seconds['raycl'].cpu:.3f}")
            colour = "green" if met else "red"
            rows.append(
                (
                    f"{model} {kind}",
                    *times,
                    f"[{colour}]{ratio:.1f}[/]",
                    f"{GOAL[model]:g}",
                    f"{apart:.0e}",
                    f"{apart32:.0e}",
                )
            )
    columns = ("importance", "loop", "raycl", "times faster", "goal", "difference", "in float32")
    note = f"{count} examples of {data}; CPU seconds of one thread, medians of {repeats} turns"
    report("Importances against a loop over single examples", columns, rows, note)


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:3] or (1000, 3)))
