"""raycl's trainer against a bare PyTorch loop on equal work: naive fine-tuning and reservoir replay on Split MNIST.

Both sides read uint8 rows from memory by index, turn them into [0, 1], and update an MLP 784-400-400-10 by fused Adam
in batches of 128, on one thread. With replay every update also learns 128 rows of a reservoir of 1,000, drawn without
replacement. raycl's side also checks that losses are finite, and measures ten examples of each task.

    OMP_NUM_THREADS=1 python benchmarks/trainer_overhead.py [repeats]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from shared import interleaved, judged, learn, local_source, mnist_root, report, rows_of, trial
from torch import Tensor, nn

from raycl.streams.source import LocalSource

GOAL = 1.15
BATCH, MEMORY = 128, 1000


class Reservoir:
    """A uniform sample of all rows offered (Vitter 1985), vectorised over a batch."""

    def __init__(self, capacity: int, draws: int) -> None:
        self.capacity, self.draws = capacity, draws
        self.columns: dict[str, Tensor] = {}
        self.seen = 0

    def add(self, rows: dict[str, Tensor]) -> None:
        count = len(rows["label"])
        if not self.columns:
            self.columns = {name: row.new_empty(self.capacity, *row.shape[1:]) for name, row in rows.items()}
        number = torch.arange(self.seen, self.seen + count)
        slots = torch.where(number < self.capacity, number, (torch.rand(count) * (number + 1)).long())
        kept = slots < self.capacity
        for name, row in rows.items():
            self.columns[name][slots[kept]] = row[kept]
        self.seen += count

    def sample(self, eligible: Tensor | None = None) -> dict[str, Tensor]:
        """As many rows as are drawn for an update, without replacement.

        Args:
            eligible: bool ``[capacity]``; default: all rows.
        """
        held = min(self.seen, self.capacity)
        if eligible is None:
            slots = torch.randperm(held)[: self.draws]
        else:
            among = eligible[:held].nonzero().flatten()
            slots = among[torch.randperm(len(among))[: self.draws]]
        return {name: column[slots] for name, column in self.columns.items()}


def bare(images: Tensor, labels: Tensor, tasks: Sequence[Tensor], replay: bool) -> None:
    """The tasks one after another, one epoch each."""
    layers = nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)
    network, memory = nn.Sequential(*layers), Reservoir(MEMORY, BATCH)
    for rows in tasks:
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
        for index in rows[torch.randperm(len(rows))].split(BATCH):
            x, y = images.index_select(0, index), labels.index_select(0, index)
            both_x, both_y = x, y
            if replay and memory.seen:
                old = memory.sample()
                both_x, both_y = torch.cat([x, old["image"]]), torch.cat([y, old["label"]])
            logits = network(both_x.float() / 255)
            loss = nn.functional.cross_entropy(logits[: len(y)], y)
            if len(both_y) > len(y):
                loss = loss + nn.functional.cross_entropy(logits[len(y) :], both_y[len(y) :])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if replay:
                memory.add({"image": x, "label": y})


def sides(strategy: str, source: LocalSource) -> dict[str, Callable[[], object]]:
    """Both loops over the very same rows."""
    images, labels, tasks = rows_of(source)
    return {
        "bare": lambda: bare(images, labels, tasks, strategy == "replay"),
        "raycl": lambda: learn(trial(strategy), source),
    }


def main(repeats: int) -> None:
    torch.set_num_threads(1)
    rows = []
    with mnist_root() as (root, data):
        source = local_source(trial("naive"), root)
        for strategy in ("naive", "replay"):
            seconds = interleaved(sides(strategy, source), repeats)
            ratio = seconds["raycl"].cpu / seconds["bare"].cpu
            rows.append((strategy, f"{seconds['bare'].cpu:.2f}", f"{seconds['raycl'].cpu:.2f}", *judged(ratio, GOAL)))
    note = f"{data}; CPU seconds of one thread for five tasks of one epoch, medians of {repeats} turns"
    report("Trainer against a bare loop", ("method", "bare loop", "raycl", "ratio", "goal"), rows, note)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
