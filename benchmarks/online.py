"""raycl's trainer against bare PyTorch loops in the online setting: batches of 10, one pass, an MLP 784-100-100-10.

Split MNIST, class-incremental, fused Adam, one thread. Both sides make the same passes through the network in every
update: one of ten rows (naive), one of ten and ten replayed rows (replay), the teacher's beside it (LwF, from the
second task on), three of ten rows (DER++), a second one with its gradient of ten old rows (A-GEM). Memories are
reservoirs of 500 rows. raycl's side also counts rows, checks that losses are finite, and measures ten examples of each
task.

    OMP_NUM_THREADS=1 python benchmarks/online.py [repeats]
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from shared import interleaved, judged, learn, local_source, mnist_root, report, rows_of, trial
from torch import Tensor, nn
from trainer_overhead import Reservoir

from raycl.streams.source import LocalSource

BATCH, MEMORY, RATE = 10, 500, 1e-3
OPTIONS = {
    "naive": "{}",
    "replay": "{}",
    "lwf": "{penalty: 1.0}",
    "derpp": "{alpha: 0.5, beta: 0.5}",
    "agem": f"{{reference_batch_size: {BATCH}}}",
}
GOALS = {"naive": 1.1, "replay": 1.1, "lwf": 1.2, "derpp": 1.2, "agem": 1.2}


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))


@dataclass
class Learner:
    """A network, and what the methods keep beside it."""

    network: nn.Sequential = field(default_factory=_network)
    memory: Reservoir = field(default_factory=lambda: Reservoir(MEMORY, BATCH))
    teacher: nn.Module | None = None
    task: int = 0

    def begin(self, task: int) -> None:
        self.task = task
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE, fused=True)

    def descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


Update = Callable[[Learner, Tensor, Tensor], None]
"""Takes uint8 images ``[batch, 784]`` and labels ``[batch]``."""


def scaled(images: Tensor) -> Tensor:
    return images.float() / 255


def naive(learner: Learner, images: Tensor, y: Tensor) -> None:
    learner.descend(nn.functional.cross_entropy(learner.network(scaled(images)), y))


def replay(learner: Learner, images: Tensor, y: Tensor) -> None:
    new, both = images, y
    if learner.memory.seen:
        old = learner.memory.sample()
        new, both = torch.cat([images, old["image"]]), torch.cat([y, old["label"]])
    learner.descend(nn.functional.cross_entropy(learner.network(scaled(new)), both))
    learner.memory.add({"image": images, "label": y})


def lwf(learner: Learner, images: Tensor, y: Tensor) -> None:
    x, old = scaled(images), 2 * learner.task
    logits = learner.network(x)
    loss = nn.functional.cross_entropy(logits, y)
    if learner.teacher is not None:
        with torch.no_grad():
            target = (learner.teacher(x)[:, :old] / 2).log_softmax(1)
        answers = (logits[:, :old] / 2).log_softmax(1)
        loss = loss + 4 * (target.exp() * (target - answers)).sum(1).mean()
    learner.descend(loss)


def derpp(learner: Learner, images: Tensor, y: Tensor) -> None:
    logits = learner.network(scaled(images))
    loss = nn.functional.cross_entropy(logits, y)
    if learner.memory.seen:
        first, second = learner.memory.sample(), learner.memory.sample()
        loss = loss + 0.5 * nn.functional.mse_loss(learner.network(scaled(first["image"])), first["logits"])
        loss = loss + 0.5 * nn.functional.cross_entropy(learner.network(scaled(second["image"])), second["label"])
    learner.descend(loss)
    learner.memory.add({"image": images, "label": y, "logits": logits.detach()})


def agem(learner: Learner, images: Tensor, y: Tensor) -> None:
    parameters = list(learner.network.parameters())
    loss = nn.functional.cross_entropy(learner.network(scaled(images)), y)
    learner.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if learner.task:
        old = learner.memory.sample(learner.memory.columns["task"] != learner.task)
        past = nn.functional.cross_entropy(learner.network(scaled(old["image"])), old["label"])
        reference = torch.cat([part.flatten() for part in torch.autograd.grad(past, parameters)])
        gradient = torch.cat([parameter.grad.flatten() for parameter in parameters])
        product, square = gradient @ reference, reference @ reference
        projected = torch.where(product < 0, gradient - product / square * reference, gradient)
        for parameter, part in zip(parameters, projected.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)
    learner.optimizer.step()
    learner.memory.add({"image": images, "label": y, "task": torch.full_like(y, learner.task)})


UPDATES: dict[str, Update] = {"naive": naive, "replay": replay, "lwf": lwf, "derpp": derpp, "agem": agem}


def bare(images: Tensor, labels: Tensor, tasks: Sequence[Tensor], strategy: str) -> None:
    """The tasks one after another, one pass each."""
    learner, update = Learner(), UPDATES[strategy]
    for task, rows in enumerate(tasks):
        learner.begin(task)
        if task and strategy == "lwf":
            learner.teacher = copy.deepcopy(learner.network).requires_grad_(False)
        for index in rows[torch.randperm(len(rows))].split(BATCH):
            update(learner, images.index_select(0, index), labels.index_select(0, index))


def sides(strategy: str, source: LocalSource) -> dict[str, Callable[[], object]]:
    """Both loops over the very same rows."""
    images, labels, tasks = rows_of(source)
    return {"bare": lambda: bare(images, labels, tasks, strategy), "raycl": lambda: learn(online(strategy), source)}


def online(strategy: str):
    """The trial of a method in this setting."""
    return trial(
        strategy,
        OPTIONS[strategy],
        model="{name: mlp, hidden: [100, 100]}",
        training=f"{{optimizer: adam, learning_rate: {RATE}, batch_size: {BATCH}, epochs: 1}}",
        memory=f"{{capacity: {MEMORY}}}",
    )


def main(repeats: int, strategies: Sequence[str]) -> None:
    torch.set_num_threads(1)
    rows = []
    with mnist_root() as (root, data):
        source = local_source(online("naive"), root)
        updates = sum(-(-len(source.part(task, "train")) // BATCH) for task in range(source.layout.num_tasks))
        for strategy in strategies:
            seconds = interleaved(sides(strategy, source), repeats)
            micros = {side: 1e6 * taken.cpu / updates for side, taken in seconds.items()}
            ratio = micros["raycl"] / micros["bare"]
            each = (f"{micros['bare']:.0f}", f"{micros['raycl']:.0f}", f"{1e6 / micros['raycl']:,.0f}")
            rows.append((strategy, *each, *judged(ratio, GOALS[strategy])))
    note = f"{data}; microseconds of CPU per update, {updates:,} updates of five tasks, medians of {repeats} turns"
    columns = ("method", "bare loop", "raycl", "updates/s", "ratio", "goal")
    report("Online learning against bare loops", columns, rows, note)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:] or tuple(OPTIONS))
