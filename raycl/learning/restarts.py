"""Entries of a parameter that begin anew in the middle of a task, as far as its optimiser is concerned.

What an optimiser keeps for such entries is set to where it begins: moments, momentum and sums of squares to zero. Adam
also divides its moments by 1 - beta^steps, and torch counts the steps of a parameter as a whole: beside fresh moments
an old count would make the first step 3.2 times as large as that of a new parameter. So the step at which an entry
began anew is kept with its moments, as ``since``, and the step that torch makes is then corrected to that of an entry
so young.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SINCE = "since"
"""What is kept beside Adam's moments: the step, ``[*shape]``, at which each entry began anew; 0 for the others."""


def restart(state: dict[str, Any], entries: Tensor) -> None:
    """Let entries begin anew in what an optimiser keeps.

    Args:
        entries: bool, in the parameter's shape.
    """
    for value in state.values():
        if isinstance(value, Tensor) and value.shape == entries.shape and value.dim():
            value[entries] = 0.0
    if "exp_avg_sq" in state:
        since = state.setdefault(SINCE, torch.zeros_like(state["exp_avg_sq"]))
        since[entries] = state["step"].to(since)


@torch.no_grad()
def correct(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """After a step of Adam: let each entry go as far as one goes that has made as many steps as it has.

    Args:
        group: the parameter's own.
    """
    whole = state["step"].to(parameter)
    made, own = (_step(state, group, steps) for steps in (whole, whole - state[SINCE]))
    parameter.add_(made - own, alpha=group["lr"])


def _step(state: dict[str, Any], group: dict[str, Any], steps: Tensor) -> Tensor:
    """What Adam takes off a parameter, over the learning rate."""
    first, second = (1 - beta**steps for beta in group["betas"])
    size = state["exp_avg_sq"].div(second).sqrt_().add_(group["eps"])
    taken: Tensor = state["exp_avg"].div(first).div_(size)
    return taken
