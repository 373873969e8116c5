"""The lookahead against the step that the trainer's optimiser then really takes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycl.learning.fused import FusedOptimizer
from raycl.learning.lookahead import lookahead
from raycl.spec.training import TrainingConfig
from raycl.strategies.base import Trainable
from raycl.trial.optimizers import OptimizerSet

SETTINGS: list[dict[str, Any]] = [
    {"optimizer": "adam", "learning_rate": 1e-2},
    {"optimizer": "adam", "learning_rate": 1e-2, "weight_decay": 0.1, "gradient_clip": 0.5},
    {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1},
    {"optimizer": "sgd", "learning_rate": 0.1},
    {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    {"optimizer": "adagrad", "learning_rate": 0.1, "weight_decay": 0.01},
    {"optimizer": "rmsprop", "learning_rate": 1e-2, "momentum": 0.5, "weight_decay": 0.01},
]


def prepared(training: TrainingConfig, updates: int) -> tuple[OptimizerSet, list[nn.Parameter]]:
    """An optimiser in the middle of its work, with the next gradients in place."""
    random = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=random)) for shape in ((5, 3), (4,))]
    optimizers = OptimizerSet(training)
    optimizers.build({"theta": Trainable([{"params": parameters[:1]}, {"params": parameters[1:], "scale": 0.3}])})
    for update in range(updates + 1):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=random)
        if update < updates:
            optimizers.step()
    return optimizers, parameters


def real_step(optimizers: OptimizerSet, parameters: list[nn.Parameter]) -> list[Tensor]:
    before = [parameter.detach().clone() for parameter in parameters]
    optimizers.step()
    return [parameter.detach() - value for parameter, value in zip(parameters, before, strict=True)]


def agrees(step: Tensor, real: Tensor) -> bool:
    """Both are differences of parameters near 1, and so exact to about 2e-7."""
    return bool(torch.allclose(step, real, rtol=1e-4, atol=5e-7))


def gradients_of(parameters: list[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
    return {parameter: parameter.grad.clone() for parameter in parameters if parameter.grad is not None}


@pytest.mark.parametrize("updates", [0, 1, 4])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings["optimizer"])
def test_it_is_the_step_that_the_optimiser_takes(settings: dict[str, Any], updates: int) -> None:
    training = TrainingConfig(**settings)
    optimizers, parameters = prepared(training, updates)
    state = copy.deepcopy(optimizers.state_dict())
    values = [parameter.detach().clone() for parameter in parameters]
    ahead = lookahead(optimizers["theta"], gradients_of(parameters), training.gradient_clip)
    steps = {parameter: ahead[parameter].detach() - parameter.detach() for parameter in parameters}
    assert str(optimizers.state_dict()) == str(state), "no side effect on moments"
    assert all(torch.equal(now, before) for now, before in zip(parameters, values, strict=True))
    for parameter, real in zip(parameters, real_step(optimizers, parameters), strict=True):
        assert agrees(steps[parameter], real)


@pytest.mark.parametrize("settings", [SETTINGS[0], SETTINGS[4], SETTINGS[6]], ids=["adam", "sgd", "rmsprop"])
def test_the_check_fails_where_the_moments_are_ignored(settings: dict[str, Any]) -> None:
    optimizers, parameters = prepared(TrainingConfig(**settings), 4)
    fresh, _ = prepared(TrainingConfig(**settings), 0)
    twin = fresh["theta"]
    for group, own in zip(twin.param_groups, optimizers["theta"].param_groups, strict=True):
        group["params"] = own["params"]
    ahead = lookahead(twin, gradients_of(parameters))
    steps = {parameter: ahead[parameter].detach() - parameter.detach() for parameter in parameters}
    real = real_step(optimizers, parameters)
    assert not all(agrees(steps[parameter], step) for parameter, step in zip(parameters, real, strict=True))


def test_a_differentiated_step_carries_its_own_slope() -> None:
    """Loss 1/2 a w^2 and a step of SGD: w' = (1 - rate a) w, so d(w'^2)/dw = 2 (1 - rate a)^2 w."""
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = FusedOptimizer("sgd", [{"params": [weight], "lr": 0.1, "weight_decay": 0.0}])
    (slope,) = torch.autograd.grad((2.0 * weight.square() / 2).sum(), [weight], create_graph=True)
    lookahead(optimizer, {weight: slope})[weight].square().sum().backward()
    assert weight.grad is not None
    assert float(weight.grad) == pytest.approx(2 * 0.8**2 * 3.0)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings["optimizer"])
def test_a_step_from_plain_gradients_is_a_constant(settings: dict[str, Any]) -> None:
    optimizers, parameters = prepared(TrainingConfig(**settings), 2)
    ahead = lookahead(optimizers["theta"], gradients_of(parameters), 0.5)
    slopes = torch.autograd.grad(sum(value.sum() for value in ahead.values()), parameters)
    assert all(torch.equal(slope, torch.ones_like(slope)) for slope in slopes)


def test_a_differentiated_adam_step_stays_finite_where_a_gradient_is_zero() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 1.0]))
    optimizer = FusedOptimizer("adam", [{"params": [weight], "lr": 0.1, "weight_decay": 0.0}])
    (slope,) = torch.autograd.grad(weight[0].square(), [weight], create_graph=True)
    lookahead(optimizer, {weight: slope})[weight].square().sum().backward()
    assert weight.grad is not None
    assert bool(torch.isfinite(weight.grad).all())
