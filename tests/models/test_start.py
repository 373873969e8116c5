"""How layers start: torch's way, and Glorot's."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from support import trainer, trial
from torch import nn

from raycl.models.network import Start, initialize, kaiming, start_bound, xavier
from raycl.strategies.base import Strategy


def started(init: str, model: str = "mlp", strategy: str = "naive") -> Strategy:
    blocks = {"mlp": {"name": "mlp", "hidden": [32, 16]}, "cnn": {"name": "cnn", "channels": [4, 8], "hidden": 16}}
    return trainer(trial(strategy, "class", model={**blocks[model], "init": init})).strategy


def layers(module: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_xavier_draws_within_glorots_bound_and_biases_are_zero(model: str) -> None:
    for layer in layers(started("xavier", model).network.backbone):
        field = layer.weight[0, 0].numel()
        bound = math.sqrt(6 / (field * (layer.weight.shape[0] + layer.weight.shape[1])))
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    for layer in layers(started("default", model).network.backbone):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert layer.bias.any()


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_kaiming_draws_within_hes_bound_of_relus_and_the_head_without_one(model: str) -> None:
    strategy = started("kaiming", model)
    strategy.grow(0)
    for layer in layers(strategy.network.backbone):
        bound = math.sqrt(6 / layer.weight[0].numel())
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    head = strategy.network.head
    assert 0.7 * math.sqrt(3 / 16) < head.weight.abs().max() <= math.sqrt(3 / 16)
    assert not head.bias.any()


@pytest.mark.parametrize(("start", "draw"), [("default", initialize), ("xavier", xavier), ("kaiming", kaiming)])
def test_the_bound_is_the_one_that_is_drawn_within(start: Start, draw: Callable[..., None]) -> None:
    layer = nn.Linear(30, 20)
    draw(layer, torch.Generator().manual_seed(0))
    assert 0.95 * start_bound(start, 30, 20) < layer.weight.abs().max() <= start_bound(start, 30, 20)


def test_heads_start_so_and_grow_so() -> None:
    strategy = started("xavier")
    strategy.grow(0)
    head, first = strategy.network.head, strategy.network.head.weight.detach().clone()
    strategy.grow(1)
    assert torch.equal(head.weight[:2], first)
    for rows, outputs in ((first, 2), (head.weight[2:], 4)):
        bound = math.sqrt(6 / (16 + outputs))
        assert 0.7 * bound < rows.abs().max() <= bound
    assert not head.bias.any()
    plain = started("default")
    plain.grow(0)
    assert plain.network.head.weight.abs().max() <= 1 / 4
    assert plain.network.head.bias.any()


def test_every_network_of_a_method_starts_so() -> None:
    strategy = started("xavier", strategy="ensemble")
    strategy.grow(0)
    strategy.grow(1)
    assert not any(layer.bias.any() for layer in layers(strategy.network.backbone))


@pytest.mark.parametrize("start", [initialize, kaiming, xavier])
def test_the_generator_decides(start: object) -> None:
    assert callable(start)
    one, other = nn.Linear(8, 4), nn.Linear(8, 4)
    for layer in (one, other):
        start(layer, torch.Generator().manual_seed(3))
    assert torch.equal(one.weight, other.weight)


def test_a_start_that_nobody_asked_for_names_no_other_trial() -> None:
    plain, asked = trial("naive"), trial("naive", model={"init": "xavier"})
    assert plain.model_copy(update={"model": {k: v for k, v in plain.model.items() if k != "init"}}).hash == plain.hash
    assert asked.hash != plain.hash
