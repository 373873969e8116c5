"""What a method, or a block of a sweep file, needs of the other blocks, and which options do nothing beside which.

Options that are fine one by one can make another method of the one that is named: a replay weight of ``1/t`` where
nobody tells t is fine-tuning. So options classes and strategies declare, as class data, ``needs`` (what is refused,
with its remedy) and ``ignores`` (options that decide nothing). The reader of sweep files holds every method to them at
the ends of its search space (:mod:`raycl.spec.check`).

Options are named as in a method's block of a sweep file: its own by name, others by dotted path, and a whole block by
its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from raycl.spec.published import per_task_head

if TYPE_CHECKING:
    from raycl.spec.options import MemoryConfig, ModelConfig, StreamConfig, TrainingConfig
    from raycl.spec.sweep_options import EvaluationConfig, FinalConfig, LimitsConfig, PrunerConfig, SearchConfig

SHARED_BLOCKS = ("stream", "model", "training", "memory", "evaluation", "limits")
"""Blocks that hold for every method; whatever else is named is the method's own option."""


@dataclass(frozen=True)
class Extent:
    """How large a stream is, as far as that is known without reading its data.

    Attributes:
        sizes: classes of each task.
        rows: training rows of the smallest task, about.
    """

    sizes: tuple[int, ...]
    rows: int | None = None

    @property
    def told_apart(self) -> bool:
        """Whether a network for each task can be more or less certain: none has a single class beside others."""
        return len(self.sizes) == 1 or min(self.sizes) > 1


@dataclass(frozen=True)
class Setting:
    """The checked blocks of one method at one point of its search space, and what follows from them.

    Attributes:
        strategy: the method's class, or whatever stands for it in the catalogue.
        extent: None where the data have to be read first.
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
        if self.extent is None or self.units is None or self.memory.unit == "class":
            return True
        return self.memory.capacity >= (self.units if self.memory.unit == "total" else max(self.extent.sizes))

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
        if self.extent is None or self.extent.rows is None:
            return None
        tasks = len(self.extent.sizes)
        if getattr(self.strategy, "offers", "batch") == "task":
            return tasks
        batches = max(1, self.extent.rows // self.training.batch_size)
        passes = (self.training.epochs or 1) if self.memory.insert == "every_epoch" else 1
        return tasks * min(batches * passes, self.training.iterations or batches * passes)


@dataclass(frozen=True)
class SearchSetting:
    """What is searched and how, over all methods.

    Attributes:
        tasks: of the longest stream on which something is searched; 0 where nothing is.
    """

    search: SearchConfig | None
    pruner: PrunerConfig | None
    final: FinalConfig | None
    tasks: int

    @cached_property
    def seen(self) -> int:
        """Trials of earlier generations that the last suggestion of a method sees."""
        if self.search is None:
            return 0
        return (self.search.trials - 1) // self.search.generation * self.search.generation


@dataclass(frozen=True)
class Need:
    """What must hold, or the sweep is refused.

    Attributes:
        path: the option that is pointed at.
        rule: what must hold, and the remedy.
        holds: of a :class:`Setting`, or a :class:`SearchSetting` for the search's own blocks.
        bars: in a variant of the sweep, the method is left out ("n/a") instead.
    """

    path: str
    rule: str
    holds: Callable[[Any], bool]
    bars: bool = False


def always(setting: Any) -> bool:
    return True


@dataclass(frozen=True)
class Idle:
    """Options that decide nothing: warned of where they are written, refused where they are searched.

    Attributes:
        paths: the options, or whole blocks.
        why: what would make them act.
        when: of a :class:`Setting`, or a :class:`SearchSetting` for the search's own blocks.
    """

    paths: tuple[str, ...]
    why: str
    when: Callable[[Any], bool] = always


NO_MEMORY = Idle(("memory",), "this method keeps no examples")
NEW_OPTIMIZERS = Idle(("training.reset_optimizer",), "this method learns every task with new optimisers")
"""Of methods that hand no moments on, whatever is asked."""
NO_COMPRESSION = Idle(("limits.max_compression_ratio",), "this method makes its weights itself")


def idle(setting: Setting) -> dict[str, str]:
    """The options that do nothing in a setting, and why; by the dotted path of an option, or by the name of a block."""
    declared = [rule for owner in _owners(setting) for rule in getattr(owner, "ignores", ())]
    if not setting.strategy.uses_memory:
        declared.append(NO_MEMORY)
    if not getattr(setting.strategy, "compresses", True):
        declared.append(NO_COMPRESSION)
    return {path: rule.why for rule in declared if rule.when(setting) for path in rule.paths}


def broken(setting: Setting, blocks: Sequence[str] = SHARED_BLOCKS) -> Iterator[Need]:
    """The needs that a setting does not meet; those of options that do nothing are met.

    Args:
        blocks: whose needs are looked at, beside the method's own.
    """
    silent = idle(setting)
    for owner in _owners(setting, blocks):
        for need in getattr(owner, "needs", ()):
            if not covered(need.path, silent) and not need.holds(setting):
                yield need


def covered(path: str, silent: dict[str, str]) -> str | None:
    """Why an option does nothing; None where it acts."""
    parts = path.split(".")
    return next((silent[key] for end in range(len(parts), 0, -1) if (key := ".".join(parts[:end])) in silent), None)


def _owners(setting: Setting, blocks: Sequence[str] = SHARED_BLOCKS) -> Iterator[Any]:
    yield setting.strategy
    for block in ("options", *blocks):
        yield type(getattr(setting, block))
