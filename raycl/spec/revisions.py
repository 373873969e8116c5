"""Which revision of each part of raycl decides a trial's numbers.

Whoever changes what the same options give raises the ``revision`` of the part: of a strategy, a model, a stream, a data
set; or adds a :class:`Change` for what all methods share. From 2 on a revision is part of the hash of the trials that
it touches, and of no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycl.spec.published import long_head

if TYPE_CHECKING:
    from raycl.spec.options import StreamConfig
    from raycl.spec.setting import Registries, Setting


@dataclass(frozen=True)
class Change:
    """A change of what methods share (the loop, the optimisers, the evaluation), or of some trials of one method.

    Attributes:
        part: what changed, in a word.
        revision: 2 for its first change.
        touches: whether a trial's numbers changed.
    """

    part: str
    revision: int
    touches: Callable[[Setting], bool]


def _leaves_rows_idle(setting: Setting) -> bool:
    """Whether a head has rows that a task's losses do not reach, and that an optimiser would move all the same."""
    training, rows = setting.training, getattr(setting.strategy, "idle_rows", "by policy")
    moves = training.weight_decay > 0 or not training.reset_optimizer
    return moves and (rows == "always" or (rows == "by policy" and _own_units(setting)))


def _own_units(setting: Setting) -> bool:
    """Whether a task's rows compete among its own units alone."""
    policy = setting.training.active_logits
    return policy in ("own", "current") or (policy == "auto" and setting.per_task_head)


def _learns_single_rows(setting: Setting) -> bool:
    own = getattr(setting.options, "batch_size", None)  # of methods that fit a network in a phase of their own
    return own == 1 or (setting.training.batch_size == 1 and setting.training.epochs is not None)


CHANGES: tuple[Change, ...] = (
    Change("idle rows", 2, _leaves_rows_idle),  # they decayed, and moments of the task before moved them on
    Change("batches of one", 2, _learns_single_rows),  # the last update of a pass took two rows
    # heads of other tasks were multiplied and stepped along
    Change("long heads", 2, lambda at: long_head(at.stream.tasks) and _own_units(at)),
)
"""Every change since the first results, a line each; the latest of a part counts. Methods add their own ``changes``."""

LATE_ROWS = Change("late rows", 2, lambda at: at.training.iterations is not None and at.memory.insert != "every_epoch")
"""Of methods that offer rows as they are learned: those that the first pass left over are offered when they come."""


def of_later_tasks(stream: StreamConfig) -> dict[str, int]:
    """The same of trials that leave the first tasks out: images were standardised by the moments of one of these."""
    return {"first task": 2} if stream.normalize == "mean_std_first_task" else {}


def revisions(setting: Setting, catalog: Registries) -> dict[str, int]:
    """The revisions that a trial's hash takes in: part -> revision, where it is not the first."""
    strategy, stream = setting.strategy, catalog.streams.get(setting.stream.name)
    datasets = [catalog.datasets.get(name) for name in stream(setting.stream, 0).datasets()]
    found = {
        "strategy": _of(strategy),
        "model": _of(catalog.models.get(setting.model.name)),
        "stream": _of(stream),
        "dataset": max(map(_of, datasets), default=1),
    }
    found |= {
        change.part: change.revision
        for change in (*CHANGES, *getattr(strategy, "changes", ()))
        if change.touches(setting)
    }
    return {part: revision for part, revision in found.items() if revision > 1}


def _of(entry: Any) -> int:
    return int(getattr(entry, "revision", 1))
