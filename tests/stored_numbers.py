"""A small trial of every method, and the numbers that it leaves: what a revision promises to hold.

``tests/stored/numbers.json`` keeps them. Where numbers of a method are meant to move, raise its ``revision`` (or add a
``Change`` to ``raycl.spec.revisions``), and write the list again:

    python tests/stored_numbers.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import support
import torch
from torch import Tensor

from raycl.catalog import catalog
from raycl.spec.trial import TrialSpec
from raycl.trial.device import processor

STORED = Path(__file__).parent / "stored" / "numbers.json"
STREAM = {"tasks": 2, "train_per_task": 60}
TRAINING = {"iterations": 6, "learning_rate": 5e-3}
OPTIONS: dict[str, dict[str, Any]] = {
    "continual_backprop": {"replacement_rate": 0.1, "maturity": 2},
    "gdumb": {"passes": 4},
    "packnet": {"retrain": 0.5},
}
"""What is too slow by default, or does nothing in so few updates."""


def machine() -> list[str]:
    """What must be equal for bits to be equal."""
    return [torch.__version__, processor()]


def small(strategy: str) -> TrialSpec:
    """The trial of a method, in the hardest scenario that it allows."""
    method = catalog().strategies.get(strategy)
    scenario = next(name for name in ("class", "domain", "task") if name in method.scenarios)
    known = method.Config.model_fields
    options = {key: value for key, value in OPTIONS.get(strategy, {}).items() if key in known}
    return support.trial(strategy, scenario, stream=STREAM, training=TRAINING, options=options)


def numbers(strategy: str) -> dict[str, Any]:
    """The revision of a method's trial, its counts, and sums over all that the method has learned."""
    spec = small(strategy)
    trainer = support.trainer(spec)
    rows = support.finish(trainer)
    sums = [float(value.double().abs().sum()) for value in _tensors(trainer.strategy.state_dict())]
    squares = [float(value.double().square().sum()) for value in _tensors(trainer.strategy.state_dict())]
    return {
        "revisions": spec.revisions,
        "machine": machine(),
        "correct": [row.correct.tolist() for row in rows],
        "total": [row.total.tolist() for row in rows],
        "sum": sum(sums),
        "square": sum(squares),
    }


def _tensors(state: Any) -> Iterator[Tensor]:
    """Every tensor of numbers in a nested state."""
    if isinstance(state, Tensor) and state.numel() and state.is_floating_point():
        yield state.nan_to_num()
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from _tensors(value)


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {name: numbers(name) for name in catalog().strategies.names()}
    text = ",\n".join(f'"{name}": {json.dumps(value)}' for name, value in found.items())
    STORED.write_text("{\n" + text + "\n}\n")
