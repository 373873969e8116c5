"""What ``auto`` means for one method: shared options that its paper sets otherwise than the blocks do in general.

A method says so in ``published``: scenario -> dotted path -> value. What stands there takes the place of ``auto`` (or
of nothing, where an option is None by default) before a trial is named, so that a new meaning gives a new name. Where
a method says nothing, ``auto`` stays, and means what the block's description says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from raycl.spec.needs import Setting, covered, idle

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
    if per_task_head(blocks["model"], scenario):  # a head for each task learns on its own units
        found.pop("training.active_logits", None)
    return found


def as_published(strategy: Any, scenario: str, blocks: Mapping[str, BaseModel]) -> dict[str, BaseModel]:
    """The blocks with the method's own values where they leave the choice open."""
    changed: dict[str, dict[str, Any]] = {}
    for path, value in departures(strategy, scenario, blocks).items():
        block, _, name = path.partition(".")
        changed.setdefault(block, {})[name] = value
    return {name: block.model_copy(update=changed.get(name)) for name, block in blocks.items()}


def came_to(setting: Setting, policy: str) -> dict[str, str | int]:
    """What the shared options that a trial leaves open came to, by dotted path.

    Options that decide nothing for the method are left out: they came to nothing.

    Args:
        setting: the trial's blocks, with the method's own values where it has some.
        policy: which units the training softmax runs over.
    """
    memory = setting.memory
    found: dict[str, str | int] = {
        "training.active_logits": policy,
        "model.head": "per_task" if setting.per_task_head else "single",
        "model.classifier": "linear" if setting.model.classifier == "auto" else setting.model.classifier,
        "memory.selection": setting.selection,
        "memory.combine": "sum" if memory.combine == "auto" else memory.combine,
        "memory.insert": "first_epoch" if memory.insert == "auto" else memory.insert,
        "memory.batch_size": setting.replay_batch,
    }
    silent = idle(setting)
    return {path: value for path, value in found.items() if covered(path, silent) is None}


def per_task_head(model: Any, scenario: str) -> bool:
    """Whether every task has output units of its own: asked for, or implied by a task id that is given."""
    return model.head == "per_task" or (model.head == "auto" and scenario == "task")


def _value(blocks: Mapping[str, BaseModel], path: str) -> Any:
    block, _, name = path.partition(".")
    return getattr(blocks[block], name)
