"""Which revision of each part of raycl decides a trial's numbers.

Whoever changes what the same options give raises the ``revision`` of the part: of a strategy, a model, a stream, a data
set; or adds a :class:`Change` for what all methods share. From 2 on a revision is part of the hash of the trials that
it touches, and of no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycl.spec.blocks import Catalog, Resolved


@dataclass(frozen=True)
class Change:
    """A change of what all methods share: the loop, the optimisers, the evaluation.

    Attributes:
        part: what changed, in a word.
        revision: 2 for its first change.
        touches: (strategy, blocks) -> whether a trial's numbers changed.
    """

    part: str
    revision: int
    touches: Callable[[Any, Resolved], bool]


SHARED: tuple[Change, ...] = (
    # SupSup divides the entropies of tasks of different sizes; the sizes are not known here
    Change(
        "task_selection",
        2,
        lambda strategy, resolved: (
            getattr(resolved.options, "inference", None) == "linear" and resolved.stream.scenario != "task"
        ),
    ),
)
"""Every change since the first results, a line each; the latest of a part counts."""


def revisions(strategy: Any, resolved: Resolved, catalog: Catalog) -> dict[str, int]:
    """The revisions that a trial's hash takes in: part -> revision, where it is not the first."""
    stream = catalog.streams.get(resolved.stream.name)
    datasets = [catalog.datasets.get(name) for name in stream(resolved.stream, 0).datasets()]
    found = {
        "strategy": _of(strategy),
        "model": _of(catalog.models.get(resolved.model.name)),
        "stream": _of(stream),
        "dataset": max(map(_of, datasets), default=1),
    }
    found |= {change.part: change.revision for change in SHARED if change.touches(strategy, resolved)}
    return {part: revision for part, revision in found.items() if revision > 1}


def _of(entry: Any) -> int:
    return int(getattr(entry, "revision", 1))
