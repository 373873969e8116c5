"""Networks with convolutions channels last, as they come, against images that stay channels first.

Both sides take the same images, in the order in which they are stored; an update is forward and back in training mode,
an evaluation forward alone. The goal: not slower at any size.

    OMP_NUM_THREADS=1 python benchmarks/channels_last.py [repeats]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from unittest import mock

import torch
from shared import interleaved, judged, report
from torch import nn

from raycl.catalog import catalog
from raycl.models.cnn import FirstConvolution
from raycl.models.network import Network

GOAL, SHAPE, CLASSES, EVALUATED = 1.0, (3, 32, 32), 10, 1000
BATCHES = (10, 32, 128)
MODELS: dict[str, dict[str, object]] = {"cnn": {}, "resnet18": {"width": 20}, "resnet32": {}}


def first(method: Callable[[], object]) -> Callable[[], object]:
    """A method, with channels first."""

    def patched() -> object:
        with mock.patch.object(FirstConvolution, "forward", nn.Conv2d.forward):
            return method()

    return patched


def pass_of(network: Network, rows: int, learns: bool) -> Callable[[], object]:
    """An update without its step, or an evaluation."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(rows, *SHAPE, generator=generator), torch.randint(CLASSES, (rows,), generator=generator)

    def learn() -> None:
        network.train()
        nn.functional.cross_entropy(network(x), y).backward()

    def evaluate() -> None:
        network.eval()
        with torch.no_grad():
            network(x)

    return learn if learns else evaluate


def main(repeats: int) -> None:
    torch.set_num_threads(1)
    rows = []
    for name, options in MODELS.items():
        model = catalog().models.get(name)
        network = model.build(model.Config(name=name, **options), SHAPE, torch.Generator().manual_seed(0))
        network.grow_head(CLASSES)
        for batch in (*BATCHES, EVALUATED):
            run = pass_of(network, batch, batch != EVALUATED)
            before, after = (side.cpu for side in interleaved({"first": first(run), "last": run}, repeats).values())
            share, goal = judged(after / before, GOAL, 2)
            what = f"{name}, {'evaluation of' if batch == EVALUATED else 'batch'} {batch}"
            rows.append((what, f"{1e3 * before:.0f}", f"{1e3 * after:.0f}", share, goal))
    columns = ("", "channels first, ms", "last, ms", "share", "goal")
    note = f"images of 3 x 32 x 32 pixels; CPU time of one thread, medians of {repeats} turns"
    report("Convolutions channels last", columns, rows, note)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
