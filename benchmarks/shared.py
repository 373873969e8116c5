"""What the benchmarks share: MNIST or files of its shape, trials on it, turns, and the table that each one prints."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from raycl.catalog import catalog
from raycl.memory.local import Storage
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec
from raycl.streams.source import LocalSource
from raycl.streams.task import TaskSource
from raycl.trial.trainer import Trainer

SYNTHETIC = "random images of MNIST's shape (set RAYCL_DATA for the real ones)"


@contextmanager
def mnist_root() -> Iterator[tuple[Path, str]]:
    """A data root with MNIST in it, and what it holds: the one of ``RAYCL_DATA``, or random images in its format."""
    root = os.environ.get("RAYCL_DATA")
    if root and (Path(root) / "MNIST" / "raw").is_dir():
        yield Path(root), "MNIST"
        return
    with tempfile.TemporaryDirectory(prefix="raycl-") as folder:
        raw = Path(folder) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        random = np.random.RandomState(0)
        for name, count in (("train", 60_000), ("t10k", 10_000)):
            _write_idx(raw / f"{name}-images-idx3-ubyte", random.randint(0, 256, (count, 28, 28)))
            _write_idx(raw / f"{name}-labels-idx1-ubyte", random.randint(0, 10, count))
        yield Path(folder), SYNTHETIC


def _write_idx(path: Path, array: np.ndarray) -> None:
    """MNIST's file format: two zero bytes, 8 for unsigned bytes, the number of dimensions, their sizes, the bytes."""
    sizes = np.array(array.shape, dtype=">i4").tobytes()
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


def sweep(strategy: str, seeds: Sequence[int] = (0,), options: str = "{}", **blocks: str) -> SweepSpec:
    """Split MNIST, class-incremental, MLP 784-400-400-10, Adam, batch 128, one epoch; next to nothing is evaluated.

    Args:
        options: the method's own, as in a sweep file; ``blocks`` replace the file's other lines.
    """
    text = {
        "stream": "{name: split, dataset: mnist, tasks: 5, scenario: class, class_order: fixed}",
        "model": "{name: mlp, hidden: [400, 400]}",
        "training": "{optimizer: adam, learning_rate: 1e-3, batch_size: 128, epochs: 1}",
        "memory": "{capacity: 1000}",
        "evaluation": "{future_tasks: false, max_examples: 10}",
        **blocks,
    }
    lines = [f"{key}: {value}" for key, value in text.items()]
    ends = [f"strategies: {{{strategy}: {options}}}", f"final: {{seeds: {list(seeds)}}}"]
    return SweepSpec.parse("\n".join(["name: benchmark", *lines, *ends]), catalog())


def trial(strategy: str, options: str = "{}", **blocks: str) -> TrialSpec:
    """One trial of :func:`sweep`."""
    found = sweep(strategy, options=options, **blocks)
    return found.trial(found.entries[0], {}, 0, "final")


def local_source(spec: TrialSpec, root: Path | None) -> LocalSource:
    """The trial's stream, in this process."""
    return LocalSource(catalog(), spec.setting(catalog()).stream, spec.seed, root)


def rows_of(source: LocalSource) -> tuple[Tensor, Tensor, list[Tensor]]:
    """All images uint8 ``[n, 784]``, their classes ``[n]`` in the order of the tasks, and the rows of each task."""
    parts = [source.part(task, "train") for task in range(source.layout.num_tasks)]
    images = torch.from_numpy(parts[0].images.reshape(-1, 784).copy())
    labels = torch.zeros(len(images), dtype=torch.int64)
    for task, part in enumerate(parts):
        labels[torch.from_numpy(part.rows)] = torch.from_numpy(part.labels) + 2 * task
    return images, labels, [torch.from_numpy(part.rows) for part in parts]


def learn(spec: TrialSpec, source: TaskSource, storage: Storage | None = None) -> None:
    """The whole trial by raycl's trainer, on one thread."""
    torch.set_num_threads(1)
    trainer = Trainer(spec, source, storage=storage)
    while not trainer.done:
        trainer.run_task()
    trainer.close()


@dataclass(frozen=True)
class Seconds:
    """Medians over turns: of the wall, and of this process on the CPU, which other programs disturb less."""

    wall: float
    cpu: float


def interleaved(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Seconds]:
    """Seconds of each side, taken in turns so that a slow minute of the machine falls on all of them."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for run in sides.values():
        run()  # warm up: allocator, caches, lazy imports
    for _ in range(repeats):
        for name, run in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: Seconds(*map(statistics.median, zip(*turns, strict=True))) for name, turns in taken.items()}


def report(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> None:
    """Print one table; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(note, style="dim", highlight=False)


def judged(value: float, goal: float, digits: int = 3) -> tuple[str, str]:
    """A value, green where it meets its goal, and the goal."""
    return f"[{'green' if value <= goal else 'red'}]{value:.{digits}f}[/]", f"{goal:g}"
