"""The loops that a method asks the trainer for: phases, where their rows come from, and the optimisers they need."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from raycl.spec.training import TrainingConfig
from raycl.streams.task import Batch

R = TypeVar("R", Batch, Tensor)
Losses = dict[str, Tensor]
"""Named scalar parts; their sum is what is minimised."""


class Source(Flag):
    """Where the rows of a phase come from. ``CURRENT | MEMORY`` is one shuffled union."""

    CURRENT = auto()
    MEMORY = auto()
    SEEN = auto()
    ALL = auto()


@dataclass(frozen=True)
class Rows:
    """Rows that a strategy made itself: cached features, teacher targets, generated images.

    ``x`` float ``[n, *input shape]`` is used as it stands (``image`` is then empty); the other columns as in ``Batch``.
    Rows that are ``replayed`` come last where there are others, and ``memory.mix`` applies to such a union.
    """

    x: Tensor
    y: Tensor
    task: Tensor
    replayed: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Epochs:
    """So many passes over the phase's source."""

    count: int

    def times(self, factor: float) -> Epochs:
        """So many times as long, at least one pass."""
        return Epochs(max(1, round(self.count * factor)))

    def for_tasks(self, tasks: int) -> Epochs:
        """For so many tasks that are learned as one: a pass over their rows is a pass over each."""
        return self


@dataclass(frozen=True)
class Updates:
    """So many updates."""

    count: int

    def times(self, factor: float) -> Updates:
        """So many times as long, at least one update."""
        return Updates(max(1, round(self.count * factor)))

    def for_tasks(self, tasks: int) -> Updates:
        """For so many tasks that are learned as one."""
        return Updates(self.count * tasks)


@dataclass(frozen=True)
class Share:
    """As long as a share of ``training.budget`` lasts: phases divide what is left in proportion to their counts.

    Attributes:
        examples: the whole budget of a task.
        budgets: how many tasks' budgets are spent; upper bounds learn several tasks as one.
    """

    examples: int
    count: float = 1.0
    budgets: int = 1

    def times(self, factor: float) -> Share:
        """So many times as long as without the factor."""
        return replace(self, count=self.count * factor)

    def for_tasks(self, tasks: int) -> Share:
        """For so many tasks that are learned as one."""
        return replace(self, budgets=self.budgets * tasks)


Length = Epochs | Updates | Share
"""How long a phase is."""


@dataclass(frozen=True)
class Position:
    """Where in a task the trainer stands.

    Attributes:
        task: the task that is learned; 0 throughout where boundaries are hidden.
        fraction: share of the phase's updates that are done, 0 <= fraction < 1.
        updates: of the whole phase; infinite where a budget ends it.
        last: whether this is the last update of the phase.
        share: of a full update that this one is, below 1 where a budget ends: so much of the batch is there, and a
            method takes as much of what it adds to a batch.
        late: bool ``[batch]``, rows that come for the first time after epoch 0, whose full batches had left them over;
            None where there are none.
    """

    task: int
    phase: str
    epoch: int
    update: int
    fraction: float
    last: bool
    late: Tensor | None = None
    share: float = 1.0
    updates: float = math.inf

    def part_of(self, rows: R) -> R:
        """Of the rows that a method adds to a full update, those that it adds to this one: the first ones."""
        return rows if self.share == 1 else rows[: int(len(rows) * self.share)]


@dataclass(frozen=True)
class Phase:
    """One loop over one source. Phases are data, so the trainer has no flag for any method.

    Attributes:
        batch_size: default: ``training.batch_size``.
        order: ``stream``: as the rows come, without shuffling.
        step: default: the strategy's own.
        start: called before the first batch; rows of ``source`` are gathered after it.
        new_optimizers: build all optimisers anew after ``start``, from :meth:`Strategy.trainable`.
        learning_rate: factor on every learning rate, asked for before each update; beside ``training.schedule``.
    """

    name: str
    length: Length
    source: Source | Rows = Source.CURRENT
    batch_size: int | None = None
    order: Literal["shuffled", "stream"] = "shuffled"
    step: Callable[[Batch, Position], Losses] | None = None
    start: Callable[[], None] | None = None
    new_optimizers: bool = False
    learning_rate: Callable[[Position], float] | None = None


@dataclass(frozen=True)
class Trainable:
    """One optimiser: its parameter groups (torch's format) and, where it departs from ``training``, its settings.

    A group may carry ``"scale"``, a factor on the learning rate.
    """

    groups: Sequence[dict[str, Any]]
    training: TrainingConfig | None = None

    @staticmethod
    def of(parameters: Sequence[nn.Parameter] | Iterator[nn.Parameter]) -> Trainable:
        return Trainable([{"params": list(parameters)}])


def total(losses: Losses) -> Tensor:
    """The sum of the named parts."""
    parts = iter(losses.values())
    value = next(parts)
    for part in parts:
        value = value + part
    return value
