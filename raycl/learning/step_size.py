"""How far an optimiser goes along a steady gradient: the step size of what moves parameters beside it.

A penalty whose pull is taken in closed form, after the step along the task's gradient (a proximal step), needs a step
size of its own. With the one that the optimiser gives a steady gradient of each entry,

    sgd                    learning_rate / (1 - momentum)
    adam, adamw            learning_rate / (sqrt(v / (1 - beta2^steps)) + eps)
    adagrad                learning_rate / (sqrt(sum of squares) + eps)
    rmsprop                learning_rate / (1 - momentum) / (sqrt(v) + eps)

with v the running mean of squares, task and penalty meet where their gradients cancel, as they do where the penalty's
gradient is added to the task's: a strength means the same. (With the learning rate alone it would not: Adam makes
steps of that size of gradients of any size, and momentum multiplies the task's.) This is the proximal step in the
metric of the optimiser, as in Yun, Lozano and Yang, "Adaptive proximal gradient methods for structured neural
networks", NeurIPS 2021. Squares are those of the task's gradient alone.
"""

from __future__ import annotations

from torch import Tensor

from raycl.learning.fused import FusedOptimizer
from raycl.learning.restarts import SINCE

LARGEST_GAIN = 1e6
"""Momentum of 1 would be steps without end."""


def step_size(optimizer: FusedOptimizer, parameter: Tensor) -> Tensor | float:
    """After a step: a number, or a tensor in the parameter's shape; nothing is waited for.

    Args:
        parameter: one of the optimiser's own.
    """
    group = next(each for each in optimizer.param_groups if any(p is parameter for p in each["params"]))
    rate: float = group["lr"]
    if group.get("momentum"):
        rate /= max(1 - group["momentum"], 1 / LARGEST_GAIN)
    state = optimizer.state.get(parameter, {})
    if "exp_avg_sq" in state:
        steps = state["step"] - state.get(SINCE, 0)
        square = state["exp_avg_sq"] / (1 - group["betas"][1] ** steps)
    elif "square_avg" in state:
        square = state["square_avg"].clone()
    elif "sum" in state:
        square = state["sum"].clone()
    else:
        return rate
    size: Tensor = square.sqrt_().add_(group["eps"]).reciprocal_().mul_(rate)
    return size
