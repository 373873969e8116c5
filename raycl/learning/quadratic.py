"""A quadratic pull towards earlier parameters, weighted per parameter: 1/2 sum F (theta - theta*)^2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raycl.errors import MethodError


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
    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """1/2 sum F (theta - theta*)^2, ``[]``; after :meth:`merge` a constant is missing."""
        parts = []
        for name, importance in self.importance.items():
            held = parameters[name][: len(importance)] if importance.dim() else parameters[name]
            parts.append((importance * (held - self.anchor[name]).square()).sum())
        return 0.5 * torch.stack(parts).sum() if parts else torch.zeros(())

    def state_dict(self) -> dict[str, Any]:
        return {"importance": dict(self.importance), "anchor": dict(self.anchor)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.importance = {name: value.to(device, copy=True) for name, value in state["importance"].items()}
        self.anchor = {name: value.to(device, copy=True) for name, value in state["anchor"].items()}


def require_finite(importance: Mapping[str, Tensor], subject: str, penalty: float) -> None:
    """The trainer looks at losses and parameters; importances of a penalty that diverges may overflow before they do.

    Raises:
        MethodError: an entry is infinite or NaN; ``subject`` says whose importance it is.
    """
    if not torch.stack([torch.isfinite(value).all() for value in importance.values()]).all():
        raise MethodError(
            f"{subject} must be finite (got infinite or NaN entries); lower penalty ({penalty:g}) or "
            "training.learning_rate"
        )


def _extended(old: Tensor | None, fresh: Tensor) -> Tensor:
    """A copy of ``fresh`` whose first rows are ``old``."""
    result = fresh.clone()
    if old is not None:
        (result[: len(old)] if old.dim() else result).copy_(old)
    return result
