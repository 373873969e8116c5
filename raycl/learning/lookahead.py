"""The step that an optimiser would take from gradients, computed from its state without touching it.

A hypernetwork's regulariser is evaluated where the task's loss alone would move the weights (von Oswald et al. 2020,
section 2.1). The formulas are those of torch's own optimisers, so the step is the real one; where gradients carry a
graph, so does the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def lookahead(
    optimizer: torch.optim.Optimizer, gradients: Mapping[nn.Parameter, Tensor], gradient_clip: float = 0.0
) -> dict[nn.Parameter, Tensor]:
    """The change of each parameter if ``optimizer`` stepped with these gradients.

    Args:
        optimizer: Adam, AdamW, SGD, Adagrad or RMSprop.
        gradients: for every parameter of the optimiser.
        gradient_clip: largest norm of all gradients together; 0 clips nothing.

    Returns:
        parameter -> change, of the parameter's shape.
    """
    rule = _RULES[type(optimizer)]
    if gradient_clip:
        norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()
        scale = (gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        gradients = {parameter: gradient * scale for parameter, gradient in gradients.items()}
    steps = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            steps[parameter] = rule(group, optimizer.state.get(parameter, {}), parameter, gradients[parameter])
    return steps


def _adam(group: dict[str, Any], state: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
    rate, decay, (beta1, beta2) = group["lr"], group["weight_decay"], group["betas"]
    decoupled = group.get("decoupled_weight_decay", False)
    if decay and not decoupled:
        gradient = gradient + decay * parameter
    count = int(state["step"]) + 1 if state else 1
    mean = (1 - beta1) * gradient
    square = (1 - beta2) * gradient.square()
    if state:
        mean = mean + beta1 * state["exp_avg"]
        square = square + beta2 * state["exp_avg_sq"]
    spread = _root(square) / math.sqrt(1 - beta2**count) + group["eps"]
    step: Tensor = -(rate / (1 - beta1**count)) * mean / spread
    return step - rate * decay * parameter if decay and decoupled else step


def _sgd(group: dict[str, Any], state: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
    if group["weight_decay"]:
        gradient = gradient + group["weight_decay"] * parameter
    velocity = state.get("momentum_buffer")
    if group["momentum"] and velocity is not None:
        gradient = gradient + group["momentum"] * velocity
    step: Tensor = -group["lr"] * gradient
    return step


def _adagrad(group: dict[str, Any], state: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
    if group["weight_decay"]:
        gradient = gradient + group["weight_decay"] * parameter
    rate = group["lr"] / (1 + int(state["step"]) * group["lr_decay"])
    step: Tensor = -rate * gradient / (_root(state["sum"] + gradient.square()) + group["eps"])
    return step


def _rmsprop(group: dict[str, Any], state: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
    if group["weight_decay"]:
        gradient = gradient + group["weight_decay"] * parameter
    square = (1 - group["alpha"]) * gradient.square()
    if state:
        square = square + group["alpha"] * state["square_avg"]
    direction = gradient / (_root(square) + group["eps"])
    if group["momentum"] and state:
        direction = direction + group["momentum"] * state["momentum_buffer"]
    step: Tensor = -group["lr"] * direction
    return step


def _root(square: Tensor) -> Tensor:
    """Square root whose slope at 0 is 0 instead of infinite, so that a differentiated step stays finite."""
    if not square.requires_grad:
        return square.sqrt()
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


_RULES = {
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.SGD: _sgd,
    torch.optim.Adagrad: _adagrad,
    torch.optim.RMSprop: _rmsprop,
}
