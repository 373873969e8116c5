"""What a method's block and a variant set otherwise than the file's blocks: dotted keys, as paths with their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raycl.errors import nearest
from raycl.spec.distribution import format_value
from raycl.spec.memory import MemoryConfig
from raycl.spec.problems import Problems
from raycl.spec.source import Path
from raycl.spec.space import SEARCH
from raycl.spec.training import TrainingConfig

STRATEGY_OVERRIDES = ("training", "model", "memory")
VARIANT_OVERRIDES = ("stream", *STRATEGY_OVERRIDES, "evaluation", "limits")

Override = tuple[Path, Any, Path]
"""Target path in the merged blocks, value, and where in the file it stands."""


def variant_overrides(path: Path, data: Mapping[str, Any], problems: Problems) -> list[Override]:
    """The dotted keys of a variant, without those that are refused."""
    targets = [_target((*path, key), VARIANT_OVERRIDES, problems) for key in data]
    pairs = zip(targets, data.items(), strict=True)
    return [(target, value, (*path, key)) for target, (key, value) in pairs if target]


def own_overrides(path: Path, own: Any, strategy: Any, problems: Problems) -> list[Override]:
    """The keys of a method's block, or its usual search space, without those that are refused."""
    usual = strategy.Config.search_space
    if own == SEARCH and usual:
        return [(_own_target(key), value, path) for key, value in usual.items()]
    if not isinstance(own, dict):
        rule = "has no usual search space; write {} or options" if own == SEARCH else "must be a mapping of options"
        problems.refuse(path, rule, "" if own == SEARCH else format_value(own))
        return []
    targets = {key: _own_key((*path, key), strategy, problems) for key in own if key != "strategy"}
    return [(target, own[key], (*path, key)) for key, target in targets.items() if target]


def _own_key(origin: Path, strategy: Any, problems: Problems) -> Path:
    """What a key of a method's block sets; empty where it is refused."""
    key, known = str(origin[-1]), strategy.Config.model_fields
    blocks = [block for block, fields in _FIELDS.items() if key in fields and key not in known]
    if key not in known and key in STRATEGY_OVERRIDES:
        example = f"{key}.{_EXAMPLES[key]}"
        problems.refuse(origin, f"unknown key; override the block by a dotted path such as {example}", key=True)
    elif blocks:
        problems.refuse(origin, f"unknown key; did you mean '{blocks[0]}.{key}'?", key=True)
    elif key.startswith("memory.") and not strategy.uses_memory:
        problems.refuse(origin, "does nothing: this method keeps no examples", key=True)
    elif "." not in key:
        return ("options", key)
    else:
        return _target(origin, STRATEGY_OVERRIDES, problems)
    return ()


def _target(origin: Path, roots: Sequence[str], problems: Problems) -> Path:
    """What a dotted key overrides; empty where it is refused."""
    key = str(origin[-1])
    root, *rest = key.split(".")
    if root not in roots or not all(rest) or not rest:
        hint = nearest(root, roots) if root not in roots else ""
        rule = f"must be a dotted path below {', '.join(roots)}, such as {roots[0]}.{_EXAMPLES[roots[0]]}{hint}"
        problems.refuse(origin, rule, repr(key), key=True)
        return ()
    return (root, *rest)


def _own_target(key: str) -> Path:
    """A key of a usual search space as a path in the merged blocks."""
    root, *rest = key.split(".")
    return (root, *rest) if rest and root in STRATEGY_OVERRIDES else ("options", root, *rest)


_EXAMPLES = {"stream": "tasks", "training": "learning_rate", "model": "hidden", "memory": "capacity"}
_FIELDS: Mapping[str, Any] = {"training": TrainingConfig.model_fields, "memory": MemoryConfig.model_fields}
