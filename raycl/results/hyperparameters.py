"""Every value that a trial ran with, flat, for tables and trackers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from raycl.spec.trial import TrialSpec


def hyperparameters(spec: TrialSpec) -> dict[str, str | int | float | bool]:
    """Every value that the trial ran with, by the dotted path of the sweep file; lists as JSON, None left out."""
    blocks: dict[str, Any] = {
        **spec.options,
        "training": spec.training.model_dump(mode="json"),
        "model": spec.model,
        "stream": spec.stream,
    }
    if spec.uses_memory:
        blocks["memory"] = spec.memory.model_dump(mode="json")
    flat: dict[str, str | int | float | bool] = {}
    _flatten("", blocks, flat)
    return flat


def _flatten(prefix: str, value: Any, into: dict[str, str | int | float | bool]) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _flatten(f"{prefix}.{name}" if prefix else str(name), inner, into)
    elif isinstance(value, (list, tuple)):
        into[prefix] = json.dumps(value)
    elif value is not None:
        into[prefix] = value
