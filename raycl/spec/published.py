"""What ``auto`` means for one method: shared options that its paper sets otherwise than the blocks do in general.

A method says so in ``published``: scenario -> dotted path -> value. What stands there takes the place of ``auto`` (or
of nothing, where an option is None by default) before a trial is named, so that a new meaning gives a new name. Where
a method says nothing, ``auto`` stays, and means what the block's description says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

OPEN = ("auto", None)
"""Values that leave the choice to the method."""


def departures(strategy: Any, scenario: str, blocks: Mapping[str, BaseModel]) -> dict[str, Any]:
    """What a method sets otherwise: dotted path -> value, for the options that ``blocks`` leave open.

    Args:
        strategy: its class, or whatever stands for it in the catalogue.
        blocks: ``model``, ``training`` and ``memory``, checked.
    """
    own: Mapping[str, Any] = getattr(strategy, "published", {}).get(scenario, {})
    found = {path: value for path, value in own.items() if _value(blocks, path) in OPEN}
    if per_task_head(_value(blocks, "model.head"), scenario):  # a head for each task learns on its own units
        found.pop("training.active_logits", None)
    return found


def as_published(strategy: Any, scenario: str, blocks: Mapping[str, BaseModel]) -> dict[str, BaseModel]:
    """The blocks with the method's own values where they leave the choice open."""
    changed: dict[str, dict[str, Any]] = {}
    for path, value in departures(strategy, scenario, blocks).items():
        block, _, name = path.partition(".")
        changed.setdefault(block, {})[name] = value
    return {name: block.model_copy(update=changed.get(name)) for name, block in blocks.items()}


def per_task_head(head: str, scenario: str) -> bool:
    """Whether every task has output units of its own: asked for, or implied by a task id that is given."""
    return head == "per_task" or (head == "auto" and scenario == "task")


def _value(blocks: Mapping[str, BaseModel], path: str) -> Any:
    block, _, name = path.partition(".")
    return getattr(blocks[block], name)


def long_head(tasks: int) -> bool:
    """Whether a stream of so many tasks has heads of other tasks enough for the current one's to be learned apart."""
    return tasks > 100
