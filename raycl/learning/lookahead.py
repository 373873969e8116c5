"""Where an optimiser's next step would lead, computed from its state without touching it.

A hypernetwork's regulariser is evaluated where the task's loss alone would move the weights (von Oswald et al. 2020,
section 2.1). The formulas are those of torch's own optimisers, so the step is the real one. A result's gradient flows
to its parameter with slope 1, the step being a constant; where gradients carry a graph, it flows through the step too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raycl.learning.fused import FusedOptimizer


def lookahead(
    optimizer: FusedOptimizer, gradients: Mapping[nn.Parameter, Tensor], gradient_clip: float = 0.0
) -> dict[nn.Parameter, Tensor]:
    """The value of each parameter if ``optimizer`` stepped with these gradients.

    Args:
        gradients: for every parameter of the optimiser.
        gradient_clip: largest norm of all gradients together; 0 clips nothing.

    Returns:
        parameter -> its value after the step.
    """
    rule = _RULES[optimizer.name]
    if gradient_clip:
        norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()
        scale = (gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        gradients = {parameter: gradient * scale for parameter, gradient in gradients.items()}
    return {
        parameter: rule(group, optimizer.state.get(parameter, {}), parameter, gradients[parameter])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def _adam(group: dict[str, Any], state: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
    rate, (beta1, beta2) = group["lr"], group["betas"]
    start = parameter
    if group["decoupled_weight_decay"]:
        start = parameter - rate * group["weight_decay"] * _point(parameter, gradient)
    else:
        gradient = _decayed(group, parameter, gradient)
    count = int(state["step"]) + 1 if state else 1
    if state:
        mean = torch.lerp(state["exp_avg"], gradient, 1 - beta1)
        square = torch.mul(state["exp_avg_sq"], beta2).addcmul_(gradient, gradient, value=1 - beta2)
    else:
        mean, square = (1 - beta1) * gradient, (1 - beta2) * gradient.square()
    correction = math.sqrt(1 - beta2**count)
    spread = _root(square, correction * group["eps"])
    return torch.addcdiv(start, mean, spread, value=-rate * correction / (1 - beta1**count))


def _sgd(group: dict[str, Any], state: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
    gradient = _decayed(group, parameter, gradient)
    velocity = state.get("momentum_buffer")
    if group["momentum"]:
        moved = gradient if velocity is None else gradient + group["momentum"] * velocity
        gradient = gradient + group["momentum"] * moved if group["nesterov"] else moved
    return torch.add(parameter, gradient, alpha=-group["lr"])


def _adagrad(group: dict[str, Any], state: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
    gradient = _decayed(group, parameter, gradient)
    rate, square = group["lr"], gradient.square()
    if state:
        rate /= 1 + int(state["step"]) * group["lr_decay"]
        square = square + state["sum"]
    spread = _root(square, group["eps"])
    return torch.addcdiv(parameter, gradient, spread, value=-rate)


def _rmsprop(group: dict[str, Any], state: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
    gradient = _decayed(group, parameter, gradient)
    square = (1 - group["alpha"]) * gradient.square()
    if state:
        square = square + group["alpha"] * state["square_avg"]
    direction = gradient / _root(square, group["eps"])
    if group["momentum"] and state:
        direction = direction + group["momentum"] * state["momentum_buffer"]
    return torch.add(parameter, direction, alpha=-group["lr"])


def _point(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The parameter as a part of its step: a constant where the step is one."""
    return parameter if gradient.requires_grad else parameter.detach()


def _decayed(group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with weight decay added."""
    decay = group["weight_decay"]
    return gradient + decay * _point(parameter, gradient) if decay else gradient


def _root(square: Tensor, shift: float) -> Tensor:
    """``sqrt(square) + shift``, overwriting ``square`` where no graph needs it.

    The slope of the root at 0 is taken as 0 instead of infinite, so that a differentiated step stays finite.
    """
    if not square.requires_grad:
        return square.sqrt_().add_(shift)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0) + shift


_RULES = {
    "adam": _adam,
    "adamw": _adam,
    "sgd": _sgd,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
}
