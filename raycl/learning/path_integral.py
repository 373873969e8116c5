"""How much each parameter has done for the loss along the path of training: the importance of synaptic intelligence.

Zenke, Poole and Ganguli, "Continual learning through synaptic intelligence", ICML 2017 (arXiv 1703.04200), equations
3 and 5: omega_k = - sum over updates of g_k * (displacement of theta_k), g the gradient of the task's loss alone, and

    Omega_k = max(0, omega_k) / ((theta_k - start_k)^2 + damping).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class PathIntegral:
    """Integrates from its creation on. The order of one update is :meth:`before_update`, update, :meth:`after_update`.

    Args:
        parameters: by name; the tensors that will be updated.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._names = list(parameters)
        self._parameters = list(parameters.values())
        self._start = [p.detach().clone() for p in self._parameters]
        self._before = [torch.empty_like(p) for p in self._start]
        self._gradient = [torch.zeros_like(p) for p in self._start]
        self._integral = [torch.zeros_like(p) for p in self._start]

    @torch.no_grad()
    def before_update(self) -> None:
        """Keep the parameters and their gradients, which must be those of the task's loss, without any penalty."""
        torch._foreach_copy_(self._before, self._parameters)
        for kept, parameter in zip(self._gradient, self._parameters, strict=True):
            if parameter.grad is None:
                kept.zero_()
            else:
                kept.copy_(parameter.grad)

    @torch.no_grad()
    def after_update(self) -> None:
        """Add what the update has done."""
        torch._foreach_sub_(self._before, self._parameters)
        torch._foreach_addcmul_(self._integral, self._gradient, self._before)

    @torch.no_grad()
    def importance(self, damping: float, clamp: bool) -> dict[str, Tensor]:
        """Omega of the path so far, by name.

        Args:
            damping: xi, added to the squared displacement.
            clamp: count parameters that raised the loss as unimportant; otherwise they are pushed away.
        """
        result = {}
        for name, parameter, start, integral in zip(
            self._names, self._parameters, self._start, self._integral, strict=True
        ):
            gain = integral.clamp(min=0) if clamp else integral
            result[name] = gain / ((parameter - start).square_().add_(damping))
        return result
