"""What the trainer lends a method: the stream's layout, the options, the memory, optimisers, networks and data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from raycl.learning.fused import FusedOptimizer
from raycl.learning.precision import Bfloat16
from raycl.memory.buffer import ReplayBuffer, Table
from raycl.models.network import Network
from raycl.spec.memory import MemoryConfig
from raycl.spec.training import TrainingConfig
from raycl.streams.scenario import Scenario
from raycl.streams.task import Batch

EntryIndex: TypeAlias = tuple[Tensor | slice, ...]
"""Entries of a tensor: ``tensor[index]``."""


class TaskData(Protocol):
    """The current task's training data, for :meth:`Strategy.begin_task` and :meth:`Strategy.end_task`.

    Passes over it count as examples processed.
    """

    def __len__(self) -> int: ...

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Batches in stream order without augmentation; at most ``limit`` rows, drawn at random when given."""
        ...

    def counts(self) -> dict[int, int]:
        """Rows per output unit."""
        ...

    def table(self) -> Table:
        """All rows in stream order, as a replay memory takes them."""
        ...


class Optimizers(Protocol):
    """The trainer's optimisers, by the names of :meth:`Strategy.trainable`."""

    def zero_grad(self) -> None: ...

    def step(self, *names: str) -> None:
        """Update the named optimisers' parameters; all of them where no name is given."""
        ...

    def step_sizes(self, parameters: Sequence[Tensor]) -> list[Tensor | float]:
        """After a step: how far it goes for a steady gradient of 1, a number or one for each entry."""
        ...

    def forget(self, parameter: nn.Parameter, index: EntryIndex) -> None:
        """Entries of a parameter have been drawn anew: their moments are zero, and their steps count from here."""
        ...

    def __getitem__(self, name: str) -> FusedOptimizer: ...


class NewNetwork(Protocol):
    """Builds networks of the sweep's model."""

    def __call__(self, width: float = 1.0) -> Network: ...


class Generators(Protocol):
    """The random generators of a run, one per purpose."""

    def __call__(self, purpose: str) -> torch.Generator:
        """Of what is drawn while a network learns: ``generator("fisher")``."""
        ...

    def start(self, purpose: str) -> torch.Generator:
        """Of initial values, which follow from the run's seed of the model: ``generator.start("attention")``."""
        ...

    def start_and_draws(self, purpose: str) -> tuple[torch.Generator, torch.Generator]:
        """Both, for a part that draws its own initial values and goes on drawing."""
        ...


@dataclass(frozen=True)
class Context:
    """What the trainer lends a strategy.

    Attributes:
        new_network: builds a freshly initialised network of the sweep's model, without output units; a ``width`` below
            1 makes its layers narrower by this factor.
        num_tasks: tasks of the stream. Only upper bounds and sized-up-front methods may read it.
        memory: the replay memory; None for methods without one.
        normalize: uint8 ``[batch, channels, height, width]`` -> float32, without augmentation.
        augment: float32 -> float32, the stream's random augmentation; the identity where there is none.
        augments: whether the stream's rows change from one pass to the next.
        generator: the generators of the run, part of the checkpoint.
        count_work: tells (updates, examples) beyond those of the trainer's own loop, which are part of the cost.
        watch: counts the rows through a network as part of the cost, given the modules that every pass through it, or
            through a part of it, meets. Networks of ``new_network``, and modules that are attributes of the strategy,
            alone or in lists and dicts, are watched already when a task or a phase begins; those of a single layer
            count as heads of the strategy's own network. A network that is made later is to be named here.
        precision: of ``training.precision: bf16``; None for float32.
    """

    scenario: Scenario
    image_shape: tuple[int, int, int]
    num_tasks: int
    training: TrainingConfig
    memory_config: MemoryConfig
    memory: ReplayBuffer | None
    optimizers: Optimizers
    new_network: NewNetwork
    normalize: Callable[[Tensor], Tensor]
    augment: Callable[[Tensor], Tensor]
    augments: bool
    generator: Generators
    count_work: Callable[[int, int], None]
    watch: Callable[..., None]
    device: torch.device
    precision: Bfloat16 | None = None


def nested_bytes(state: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(nested_bytes(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(nested_bytes(value) for value in state)
    return 0
