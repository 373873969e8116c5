"""Torch's optimisers without torch's Python around them: one call of a kernel steps all parameters of a group.

The kernels are those that ``torch.optim`` calls with ``fused=True``, and of RMSprop the operations of its loop, so that
every step is torch's own to the bit. What stands around them costs a small network as much as the kernel again, and the
first object of ``torch.optim`` in a process imports ``torch._dynamo``: a second and 100 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from raycl.errors import MethodError
from raycl.spec.training import OptimizerName

ParameterState = dict[str, Any]
"""What is kept for one parameter, by torch's names; empty before its first gradient."""

Group = dict[str, Any]
"""Parameters and their options, by torch's names."""

_ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}
DEFAULTS: dict[OptimizerName, Mapping[str, Any]] = {
    "adam": {**_ADAM, "decoupled_weight_decay": False},
    "adamw": {**_ADAM, "decoupled_weight_decay": True},
    "sgd": {"momentum": 0.0, "nesterov": False},
    "adagrad": {"lr_decay": 0.0, "eps": 1e-10},
    "rmsprop": {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0},
}
"""Torch's own, of what every optimiser has beside a learning rate and weight decay."""


class FusedOptimizer:
    """One optimiser over groups of parameters.

    Attributes:
        name: of the sweep file.
        param_groups: each with its ``params``, ``lr`` and further options, which the next step reads.
        state: parameter -> what is kept for it, from its first gradient on.

    Args:
        groups: ``params``, ``lr`` and ``weight_decay`` at least.

    Raises:
        MethodError: an option that the optimiser does not have, or parameters that it cannot step.
    """

    def __init__(self, name: OptimizerName, groups: Sequence[Group]) -> None:
        self.name = name
        self.param_groups = [{**DEFAULTS[name], **group, "params": list(group["params"])} for group in groups]
        self.state: dict[Tensor, ParameterState] = {}
        self._begin, self._kernel = _KERNELS[name]
        self._check()

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters, gradients, states = [], [], []
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                if gradient.stride() != parameter.stride():  # kernels walk through memory, whatever strides say
                    gradient = torch.empty_like(parameter).copy_(gradient)
                parameters.append(parameter)
                gradients.append(gradient)
                states.append(self.state.get(parameter) or self._first_state(group, parameter))
            if parameters:
                self._kernel(group, parameters, gradients, states)

    def _first_state(self, group: Group, parameter: Tensor) -> ParameterState:
        self.state[parameter] = self._begin(group, parameter)
        return self.state[parameter]

    def _check(self) -> None:
        known = {*DEFAULTS[self.name], "params", "lr", "base_lr", "weight_decay"}
        unknown = {option for group in self.param_groups for option in group} - known
        if unknown:
            raise MethodError(
                f"{self.name}: a parameter group may hold {', '.join(sorted(known - {'lr', 'base_lr'}))}, and scale "
                f"(got {', '.join(sorted(unknown))}); leave the others out"
            )
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        if len({id(parameter) for parameter in parameters}) < len(parameters):
            raise MethodError(f"{self.name}: a parameter stands in one group once (got one twice); name it once")
        if not all(parameter.is_leaf for parameter in parameters):
            raise MethodError(
                f"{self.name}: steps parameters (got a tensor that was computed); name what it is made of"
            )


# -- kernels ---------------------------------------------------------------------------------------------------------
# Each takes the parameters of a group that have gradients, their gradients and their states.


def _begin_adam(group: Group, parameter: Tensor) -> ParameterState:
    return {**_count(parameter), "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}


def _adam(group: Group, parameters: list[Tensor], gradients: list[Tensor], states: list[ParameterState]) -> None:
    steps = _counted(states)
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    kernel(
        parameters,
        gradients,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        steps,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


def _begin_sgd(group: Group, parameter: Tensor) -> ParameterState:
    """A buffer of zeros, which is how torch's begins as well: the kernel wants one of every parameter or of none."""
    return {"momentum_buffer": torch.zeros_like(parameter)} if group["momentum"] else {}


def _sgd(group: Group, parameters: list[Tensor], gradients: list[Tensor], states: list[ParameterState]) -> None:
    torch._fused_sgd_(
        parameters,
        gradients,
        [state["momentum_buffer"] for state in states] if group["momentum"] else [],
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=0.0,
        nesterov=group["nesterov"],
        maximize=False,
        is_first_step=False,
    )


def _begin_adagrad(group: Group, parameter: Tensor) -> ParameterState:
    return {**_count(parameter), "sum": torch.zeros_like(parameter)}


def _adagrad(group: Group, parameters: list[Tensor], gradients: list[Tensor], states: list[ParameterState]) -> None:
    steps = _counted(states)
    torch._fused_adagrad_(
        parameters,
        gradients,
        [state["sum"] for state in states],
        steps,
        lr=group["lr"],
        lr_decay=group["lr_decay"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def _begin_rmsprop(group: Group, parameter: Tensor) -> ParameterState:
    state = {"step": torch.zeros(()), "square_avg": torch.zeros_like(parameter)}
    return {**state, "momentum_buffer": torch.zeros_like(parameter)} if group["momentum"] else state


def _rmsprop(group: Group, parameters: list[Tensor], gradients: list[Tensor], states: list[ParameterState]) -> None:
    _counted(states)
    squares, rate, alpha = [state["square_avg"] for state in states], group["lr"], group["alpha"]
    if group["weight_decay"]:
        gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
    torch._foreach_mul_(squares, alpha)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - alpha)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, group["eps"])
    if not group["momentum"]:
        torch._foreach_addcdiv_(parameters, gradients, roots, value=-rate)
        return
    buffers = [state["momentum_buffer"] for state in states]
    torch._foreach_mul_(buffers, group["momentum"])
    torch._foreach_addcdiv_(buffers, gradients, roots)
    torch._foreach_add_(parameters, buffers, alpha=-rate)


def _count(parameter: Tensor) -> ParameterState:
    """Steps taken, on the parameter's device, where fused kernels read it."""
    return {"step": torch.zeros((), device=parameter.device)}


def _counted(states: list[ParameterState]) -> list[Tensor]:
    """Count one more step of each."""
    steps: list[Tensor] = [state["step"] for state in states]
    torch._foreach_add_(steps, 1)
    return steps


_Begin = Callable[[Group, Tensor], ParameterState]
_Kernel = Callable[[Group, list[Tensor], list[Tensor], list[ParameterState]], None]
_KERNELS: dict[OptimizerName, tuple[_Begin, _Kernel]] = {
    "adam": (_begin_adam, _adam),
    "adamw": (_begin_adam, _adam),
    "sgd": (_begin_sgd, _sgd),
    "adagrad": (_begin_adagrad, _adagrad),
    "rmsprop": (_begin_rmsprop, _rmsprop),
}
