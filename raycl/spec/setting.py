"""The checked blocks of one method at one point of its search space, and the registries that their classes come from.

Every reader of a trial's options takes them from a :class:`Setting`: they are validated where it is made, and nowhere
else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypeAlias, TypeVar

from pydantic import BaseModel

from raycl.spec.evaluation import EvaluationConfig
from raycl.spec.memory import MemoryConfig
from raycl.spec.needs import SHARED_BLOCKS, Extent
from raycl.spec.options import ModelConfig, Options, StreamConfig
from raycl.spec.published import as_published, departures, per_task_head
from raycl.spec.sweep_options import LimitsConfig
from raycl.spec.training import TrainingConfig

B = TypeVar("B", bound=BaseModel)
Registered: TypeAlias = Mapping[str, Mapping[str, tuple[Any, str]]]
"""Registry -> name -> an entry that was registered at run time, or in a catalogue of one's own, and its fingerprint."""

PLAIN_BLOCKS = ("options", "stream", "model")
"""Blocks that a trial is stored with as plain data, since their classes come from registries."""
PUBLISHED_BLOCKS = ("model", "training", "memory")
"""Shared blocks in which a method may have its own idea of ``auto``."""
BLOCK_NAMES = ("options", *SHARED_BLOCKS)


class Names(Protocol):
    """A registry, as far as the specification needs one."""

    def names(self) -> tuple[str, ...]: ...
    def get(self, name: str) -> Any: ...
    def code(self, name: str) -> str: ...
    def package(self, name: str) -> tuple[str, str] | None: ...
    def __contains__(self, name: object) -> bool: ...


class Registries(Protocol):
    """What a sweep file may name: :class:`raycl.catalog.Catalog` in the package, small fakes in tests.

    Every entry but a data set has ``Config``. A stream is called with its options and a seed, and then tells its
    ``datasets()`` and ``tasks()``; a data set has ``info``; a strategy has what :class:`raycl.strategies.base.Strategy`
    declares of itself.
    """

    @property
    def strategies(self) -> Names: ...
    @property
    def streams(self) -> Names: ...
    @property
    def datasets(self) -> Names: ...
    @property
    def models(self) -> Names: ...

    def snapshot(self) -> Self:
        """The same as it is now: what is registered later changes nothing in it."""
        ...

    def beyond_installed(self) -> Registered:
        """What no other process finds by itself, for the catalogue of that process to be extended by."""
        ...


@dataclass(frozen=True)
class Setting:
    """The checked blocks of one method at one point of its search space, and what follows from them.

    Attributes:
        strategy: the method's class, or whatever stands for it in the catalogue.
        options: the method's own.
        extent: None where the data have to be read first, or where nobody has asked.
    """

    strategy: Any
    options: Any
    stream: StreamConfig
    model: ModelConfig
    training: TrainingConfig
    memory: MemoryConfig
    evaluation: EvaluationConfig
    limits: LimitsConfig
    extent: Extent | None = None

    def dump(self, block: str) -> dict[str, Any]:
        """A block as plain data, defaults included."""
        value: BaseModel = getattr(self, block)
        return value.model_dump(mode="json")

    def as_before(self) -> dict[str, Any]:
        """What hashes take for options that came later and stand at their default, of the blocks held as plain data."""
        found: dict[str, Any] = {}
        for block in PLAIN_BLOCKS:
            value = getattr(self, block)
            if isinstance(value, Options):
                found |= {f"{block}.{path}": before for path, before in value.as_before().items()}
        return found

    def as_published(self) -> Setting:
        """The same with the method's own values where the shared blocks leave them open."""
        own: dict[str, Any] = as_published(self.strategy, self.stream.scenario, self._shared)
        return replace(self, **own)

    def departures(self) -> dict[str, Any]:
        """What the method sets otherwise than the shared blocks in general: dotted path -> value."""
        return departures(self.strategy, self.stream.scenario, self._shared)

    @property
    def _shared(self) -> dict[str, BaseModel]:
        return {name: getattr(self, name) for name in PUBLISHED_BLOCKS}

    # -- what follows from the blocks --------------------------------------------------------------------------

    def value(self, path: str) -> Any:
        """The value of an option; None where there is no such option."""
        found: Any = self if path.split(".")[0] in SHARED_BLOCKS else self.options
        for part in path.split("."):
            found = found[int(part)] if isinstance(found, tuple) and part.isdigit() else getattr(found, part, None)
        return found

    @property
    def hidden(self) -> bool:
        """Whether training is not told where a task ends."""
        return self.stream.boundaries == "hidden"

    @property
    def per_task_head(self) -> bool:
        return per_task_head(self.model.head, self.stream.scenario)

    @property
    def shared_units(self) -> bool:
        """Whether all tasks use the same output units."""
        return self.stream.scenario != "class" and not self.per_task_head

    @property
    def equal_units(self) -> bool:
        """Whether every task has all output units, so that no policy leaves one out; no where it is not known."""
        return self.shared_units and self.extent is not None and len(set(self.extent.sizes)) == 1

    @property
    def units(self) -> int | None:
        """Output units in the end."""
        if self.extent is None:
            return None
        return max(self.extent.sizes) if self.shared_units else sum(self.extent.sizes)

    @property
    def fits_a_row_of_every_class(self) -> bool:
        """Whether the memory has room for one row of each class that its capacity counts for; so where not known."""
        capacity = self.memory.capacity
        if self.extent is None or self.units is None or self.memory.unit == "class" or capacity == "auto":
            return True
        return capacity >= (self.units if self.memory.unit == "total" else max(self.extent.sizes))

    @property
    def replay_batch(self) -> int:
        """Rows that a method replays beside each batch, where it draws them."""
        return self.memory.batch_size or self.training.batch_size

    @property
    def selection(self) -> str:
        """The rule by which the memory keeps rows."""
        own: str = getattr(self.strategy, "selection", "reservoir")
        return own if self.memory.selection == "auto" else self.memory.selection

    @property
    def flat_batch_norm(self) -> bool:
        """Whether the network cannot be trained on a batch of one row."""
        return self.model.flat_batch_norm

    @property
    def offers(self) -> int | None:
        """How often rows are offered to the memory, at the least; None where it is not known."""
        if self.extent is None or self.extent.rows is None or self.training.budget is not None:
            return None
        tasks = len(self.extent.sizes)
        if getattr(self.strategy, "offers", "batch") == "task":
            return tasks
        batches = max(1, self.extent.rows // self.training.batch_size)
        passes = (self.training.epochs or 1) if self.memory.insert == "every_epoch" else 1
        return tasks * min(batches * passes, self.training.iterations or batches * passes)


def checked_block(options: type[B], data: Mapping[str, Any]) -> B:
    """A block of a stored trial as its options class has it.

    Raises:
        ValueError: the class does not take it (pydantic's error, of several lines).
    """
    return options.model_validate_json(json.dumps(dict(data)))
