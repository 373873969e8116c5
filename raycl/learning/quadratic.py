"""A quadratic pull towards earlier parameters, weighted per parameter: s/2 sum F (theta - theta*)^2.

Two ways to follow it. ``gradient`` adds s F (theta - theta*) to the task's gradient, and the optimiser steps along the
sum: with plain SGD of rate r every such step multiplies the distance by 1 - r s F, which grows without end where
r s F > 2. Importances add up, so on a long stream any strength passes that. ``proximal`` takes the optimiser's step
along the task's gradient and then goes to where the pull and the way just made balance, in closed form,

    theta <- argmin 1/2 (theta' - theta)^2 / r + s/2 F (theta' - theta*)^2 = (theta + r s F theta*) / (1 + r s F)

which brings theta nearer to theta* whatever r s F is. In the limit of small steps both are the same. r is the step size
of :mod:`raycl.learning.step_size`, which for adaptive optimisers differs from entry to entry. What the gradient form
puts into the optimiser the proximal step keeps out of it: moments, second moments and gradient clipping are those of
the task's loss alone, and weight decay is part of the step before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from raycl.errors import MethodError
from raycl.spec.options import Later

Strength = Annotated[float, Field(ge=0, le=1e15)]
"""Strength of a pull; 0 is fine-tuning."""

PenaltyStep = Annotated[
    Literal["gradient", "proximal"],
    Later(),
    Field(
        description="gradient: the pull is added to the task's gradient; proximal: in closed form after the task's "
        "step, stable at any strength and on streams of any length"
    ),
]
"""How a quadratic penalty is followed."""

PROXIMAL = "set penalty_step: proximal, which is stable at any strength"
"""The remedy where the gradient form diverges."""


class StepSizes(Protocol):
    """Optimisers, after a step."""

    def step_sizes(self, parameters: Sequence[Tensor]) -> list[Tensor | float]:
        """How far the step goes for a steady gradient of 1, a number or one for each entry."""
        ...


class Quadratic:
    """Importances F and anchors theta*, by parameter name.

    A sum of quadratics is again one, up to a constant: F = sum F_i around the mean of the theta_i, weighted by F_i.
    That mean is kept, and updated as a running mean. The sum of F_i theta_i is not: F theta - sum F_i theta_i would
    cancel in float32, and a penalty of 1e10 makes the remainder the gradient.

    Parameters may have grown since, by rows at the end of their first dimension; such rows have F = 0.
    """

    def __init__(self) -> None:
        self.importance: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}

    def merge(self, importance: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        """Add 1/2 sum F_t (theta - theta_t)^2."""
        for name, new in importance.items():
            theta = parameters[name].detach()
            total = _extended(self.importance.get(name), torch.zeros_like(theta)).add_(new)
            mean = _extended(self.anchor.get(name), theta)
            share = torch.where(total > 0, new / total, torch.ones_like(total))  # where nothing is held: the latest
            self.importance[name], self.anchor[name] = total, mean.lerp_(theta, share)

    def replace(
        self, importance: Mapping[str, Tensor], parameters: Mapping[str, Tensor], decay: float, limit: float = math.inf
    ) -> None:
        """F <- min(limit, decay * F + F_t), theta* <- theta_t."""
        for name, new in importance.items():
            theta = parameters[name].detach()
            total = _extended(self.importance.get(name), torch.zeros_like(theta)).mul_(decay).add_(new)
            self.importance[name] = total.clamp_(max=limit) if limit < math.inf else total
            self.anchor[name] = theta.clone()

    @torch.no_grad()
    def add_gradients(self, parameters: Mapping[str, Tensor], strength: float) -> None:
        """grad += strength * F * (theta - theta*), in closed form; parameters without a gradient are at rest."""
        for name, importance in self.importance.items():
            parameter = parameters[name]
            if parameter.grad is not None:
                rows = slice(len(importance)) if importance.dim() else ...
                distance = parameter[rows] - self.anchor[name]
                parameter.grad[rows].addcmul_(importance, distance, value=strength)

    @torch.no_grad()
    def pull(self, parameters: Mapping[str, Tensor], strength: float, optimizers: StepSizes) -> None:
        """theta <- (theta + x theta*) / (1 + x), x = step size * strength * F: the proximal step, after the task's.

        Parameters without a gradient are at rest, and so are rows that the optimiser did not step. F is not negative.

        Args:
            optimizers: which made the task's step, and know how far it goes.
        """
        moving = [name for name in self.importance if parameters[name].grad is not None]
        sizes = optimizers.step_sizes([parameters[name] for name in moving])
        for name, size in zip(moving, sizes, strict=True):
            parameter, importance = parameters[name], self.importance[name]
            rows = slice(len(importance)) if importance.dim() else ...
            times = importance * (strength * (size[rows] if isinstance(size, Tensor) else size))
            times.clamp_(max=torch.finfo(times.dtype).max / 2)  # infinity over infinity is no share
            parameter[rows].lerp_(self.anchor[name], times.div_(1 + times))

    def state_dict(self) -> dict[str, Any]:
        return {"importance": dict(self.importance), "anchor": dict(self.anchor)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.importance = {name: value.to(device, copy=True) for name, value in state["importance"].items()}
        self.anchor = {name: value.to(device, copy=True) for name, value in state["anchor"].items()}


def require_finite(importance: Mapping[str, Tensor], subject: str, penalty: float, step: str) -> None:
    """The trainer looks at losses and parameters; importances of a penalty that diverges may overflow before they do.

    Args:
        step: how the penalty is followed.

    Raises:
        MethodError: an entry is infinite or NaN; ``subject`` says whose importance it is.
    """
    instead = f", or {PROXIMAL}" if step == "gradient" else ""
    if not torch.stack([torch.isfinite(value).all() for value in importance.values()]).all():
        raise MethodError(
            f"{subject} must be finite (got infinite or NaN entries); lower penalty ({penalty:g}) or "
            f"training.learning_rate{instead}"
        )


def _extended(old: Tensor | None, fresh: Tensor) -> Tensor:
    """A copy of ``fresh`` whose first rows are ``old``."""
    result = fresh.clone()
    if old is not None:
        (result[: len(old)] if old.dim() else result).copy_(old)
    return result
