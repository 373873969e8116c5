"""What tests over every registered method share: the cases, small trials of them, and how states are compared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import trainer, trial
from torch import Tensor

from raycl.catalog import catalog
from raycl.spec.trial import TrialSpec
from raycl.trial import checkpoint
from raycl.trial.trainer import Trainer

SCENARIOS = ("task", "domain", "class")
OPTIONS: dict[str, dict[str, Any]] = {
    "continual_backprop": {"replacement_rate": 0.01, "maturity": 5, "bias_transfer": True},
    "exstream": {"rehearse_every": 24},
    "gdumb": {"passes": 12},
    "generative_replay": {"latent_dim": 10, "hidden": [64]},
    "hypernetwork": {"chunk_size": 500, "task_embedding_dim": 8, "chunk_embedding_dim": 8},
    "hypernetwork_replay": {"chunk_size": 1000, "latent_dim": 10, "encoder_hidden": [64], "decoder_hidden": [32]},
    "hypernetwork_tir": {
        "chunk_size": 500,
        "task_embedding_dim": 8,
        "chunk_embedding_dim": 8,
        "vae": {"chunk_size": 1000, "latent_dim": 10, "encoder_hidden": [64], "decoder_hidden": [32]},
    },
}
"""Where a method's defaults are sized for larger streams."""

CASES = [
    pytest.param(name, scenario, id=f"{name}-{scenario}")
    for name in catalog().strategies.names()
    for scenario in SCENARIOS
    if scenario in catalog().strategies.get(name).scenarios
]

ONE_EACH = list({str(case.values[0]): case for case in CASES}.values())
"""A case of each method: class-incremental where it can be."""


def small(name: str, scenario: str, **blocks: Any) -> TrialSpec:
    return trial(name, scenario, options={**OPTIONS.get(name, {}), **blocks.pop("options", {})}, **blocks)


def tensors(state: Any, path: str = "") -> dict[str, Tensor]:
    """Every tensor of a nested state, by path."""
    if isinstance(state, Tensor):
        return {path: state}
    pairs = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    return {key: value for name, entry in pairs for key, value in tensors(entry, f"{path}/{name}").items()}


def assert_equal_state(left: Any, right: Any) -> None:
    ours, theirs = tensors(left), tensors(right)
    assert ours.keys() == theirs.keys()
    differing = [key for key, value in ours.items() if not same_bits(value, theirs[key])]
    assert not differing


def same_bits(left: Tensor, right: Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    absent = left.isnan()  # what a memory's rows lack
    return torch.equal(absent, right.isnan()) and torch.equal(left[~absent], right[~absent])


def stopped_after_every_task(spec: TrialSpec) -> tuple[Trainer, list[Any]]:
    """Run a trial in a new trainer for every task, handing over nothing but the bytes of a checkpoint."""
    current, rows = trainer(spec), []
    while True:
        rows += current.run_task()
        if current.done:
            return current, rows
        files = checkpoint.encode(current.state_dict())
        current.close()
        current = trainer(spec)
        current.load_state_dict(checkpoint.decode(files))
