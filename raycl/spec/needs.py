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

if TYPE_CHECKING:
    from raycl.spec.setting import Setting
    from raycl.spec.sweep_options import FinalConfig, PrunerConfig, SearchConfig

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
class SearchSetting:
    """What is searched and how, over all methods.

    Attributes:
        tasks: that a search trial learns, on the longest stream; 0 where nothing is searched.
    """

    search: SearchConfig | None
    pruner: PrunerConfig | None
    final: FinalConfig | None
    tasks: int

    @property
    def as_it_goes(self) -> bool:
        """Whether trials choose for themselves, and nothing is searched before."""
        return self.search is not None and self.search.as_it_goes is not None

    @property
    def decays(self) -> bool:
        """Whether they do so by stability decay."""
        rule = self.search.as_it_goes if self.search is not None else None
        return rule is not None and rule.stability_decay is not None

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
        holds: of a :class:`raycl.spec.setting.Setting`, or a :class:`SearchSetting` for the search's own blocks.
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
        when: of a :class:`raycl.spec.setting.Setting`, or a :class:`SearchSetting` for the search's own blocks.
    """

    paths: tuple[str, ...]
    why: str
    when: Callable[[Any], bool] = always


@dataclass(frozen=True)
class Costly:
    """A value that takes long beside the others: warned of, and run all the same.

    Attributes:
        path: the option.
        why: what makes it slow, and the remedy.
        when: of a :class:`Setting`.
    """

    path: str
    why: str
    when: Callable[[Setting], bool]


NO_MEMORY = Idle(("memory",), "this method keeps no examples")
NEW_OPTIMIZERS = Idle(("training.reset_optimizer",), "this method learns every task with new optimisers")
"""Of methods that hand no moments on, whatever is asked."""
NO_COMPRESSION = Idle(("limits.max_compression_ratio",), "this method makes its weights itself")


def idle(setting: Setting) -> dict[str, str]:
    """The options that do nothing in a setting, and why; by the dotted path of an option, or by the name of a block."""
    declared = [rule for owner in owners(setting) for rule in getattr(owner, "ignores", ())]
    if not setting.strategy.uses_memory:
        declared.append(NO_MEMORY)
    if not getattr(setting.strategy, "compresses", True):
        declared.append(NO_COMPRESSION)
    return {path: rule.why for rule in declared if rule.when(setting) for path in rule.paths}


def costly(setting: Setting) -> Iterator[Costly]:
    """The values that take long in a setting."""
    yield from (rule for rule in getattr(setting.strategy, "costly", ()) if rule.when(setting))


def broken(setting: Setting, blocks: Sequence[str] = SHARED_BLOCKS) -> Iterator[Need]:
    """The needs that a setting does not meet; those of options that do nothing are met.

    Args:
        blocks: whose needs are looked at, beside the method's own.
    """
    silent = idle(setting)
    for owner in owners(setting, blocks):
        for need in getattr(owner, "needs", ()):
            if not covered(need.path, silent) and not need.holds(setting):
                yield need


def covered(path: str, silent: dict[str, str]) -> str | None:
    """Why an option does nothing; None where it acts."""
    parts = path.split(".")
    return next((silent[key] for end in range(len(parts), 0, -1) if (key := ".".join(parts[:end])) in silent), None)


def owners(setting: Setting, blocks: Sequence[str] = SHARED_BLOCKS) -> Iterator[Any]:
    """The classes that declare something of a setting: the method, its options, and the blocks."""
    yield setting.strategy
    for block in ("options", *blocks):
        yield type(getattr(setting, block))
