"""From which task on an option acts, which may change between two tasks, and which hold a method's stability.

A protocol that judges before an option can act would choose its value by lot, and one that chooses between tasks cannot
give a network another width. So methods and blocks declare, as class data, ``acts_from``, ``between_tasks`` and
``stability``; every claim is proven by a contract test over all registered methods. Options are named as in
:mod:`raycl.spec.needs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from raycl.spec.needs import idle, owners
from raycl.spec.protocols import Decay
from raycl.spec.setting import Setting

ActsFrom = int | Callable[[Any], int]
"""The first task, counted from 1, whose row of the matrix can differ; of a :class:`raycl.spec.setting.Setting` where
other options decide it."""


KEPT = ("memory.capacity", "memory.unit", "memory.selection", "memory.insert")
"""Options that say which rows a memory holds, for methods that look at none before the second task."""


def acts_from(setting: Setting, option: str) -> int:
    """The first task, counted from 1, in which an option can act; 1 where nobody says otherwise."""
    for owner in owners(setting):
        declared: Mapping[str, ActsFrom] = getattr(owner, "acts_from", {})
        if option in declared:
            found = declared[option]
            return found if isinstance(found, int) else found(setting)
    return 1


def inert(setting: Setting, options: Iterable[str], judged: int) -> list[str]:
    """Which options cannot act before a protocol that looks at the first ``judged`` tasks has chosen."""
    return [option for option in options if acts_from(setting, option) > judged]


def changeable(setting: Setting) -> frozenset[str]:
    """The options that may have another value from one task to the next."""
    return frozenset(name for owner in owners(setting) for name in getattr(owner, "between_tasks", ()))


def plastic(setting: Setting) -> Mapping[str, Any] | None:
    """Options under which a method holds nothing back: those that it names, else those that make it fine-tuning."""
    own: Mapping[str, Any] | None = getattr(setting.strategy, "plastic", None)
    found: Mapping[str, Any] | None = getattr(setting.strategy, "naive_when", None) if own is None else own
    unused = _unused(setting)
    return found and {option: value for option, value in found.items() if option not in unused}


def stability(setting: Setting) -> tuple[Decay, ...] | None:
    """The options by which a method holds on to old tasks, in the order in which they are decayed; none where it has
    none, and None where it does not say, or has no form without them."""
    declared: tuple[Decay, ...] | None = getattr(setting.strategy, "stability", None)
    if declared and plastic(setting) is None:
        return None
    return declared if declared is None else tuple(_acting(setting, declared))


def _acting(setting: Setting, declared: Iterable[Decay]) -> Iterator[Decay]:
    left_out = {*idle(setting), *_unused(setting)}
    return (own for own in declared if own.option not in left_out)


def _unused(setting: Setting) -> set[str]:
    """The method's options that came later and stand at their default, which is that they do nothing: trials that do
    not use them are what they were."""
    return {option for option, before in setting.options.as_before().items() if before is None}
