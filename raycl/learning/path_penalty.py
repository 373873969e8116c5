"""Synaptic intelligence as AR1 uses it: a pull of limited strength on the parameters that lowered the loss most.

Zenke, Poole and Ganguli, ICML 2017 (arXiv 1703.04200), as in Maltoni and Lomonaco, "Continuous learning in
single-incremental-task scenarios", 2019 (arXiv 1806.08568), section 3.3: to the loss of a task is added

    penalty * sum F (theta - theta_(t-1))^2
    F <- min(max_importance, F + importance_scale * max(0, omega) / (moved^2 + damping))

with omega of :mod:`raycl.learning.path_integral`. A limit on F lets a very small damping be used, with which
importances spread over orders of magnitude: without it a few parameters would oscillate. Their code does not cut
negative omega. ``penalty_step: proximal``, which the papers do not have, takes the pull in closed form after the
optimiser's step (:mod:`raycl.learning.quadratic`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.learning.path_integral import PathIntegral
from raycl.learning.quadratic import PROXIMAL, PenaltyStep, Quadratic, StepSizes, Strength
from raycl.spec.needs import Idle
from raycl.spec.options import Options, Positive

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


PULL = ("penalty", "penalty_step", "damping", "importance_scale", "max_importance")
"""The options of :class:`PathPenaltyOptions`: a pull begins with the second task."""


class PathPenaltyOptions(Options):
    """Strength and limits."""

    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(
            ("penalty_step", "damping", "importance_scale", "max_importance"),
            "with penalty: 0 nothing is pulled",
            lambda at: not at.options.penalty,
        ),
    )

    penalty: Strength = Field(0.0, description="strength of the pull; 0: none")
    penalty_step: PenaltyStep = "gradient"
    damping: Positive = Field(1e-7, description="xi, added to squared displacements")
    importance_scale: Positive = Field(1.5e-3, description="factor on what a task adds to importances")
    max_importance: Positive = Field(1e-3, description="an importance is at most this")


class PathPenalty:
    """The order of one update is :meth:`before_update`, update, :meth:`after_update`; without a penalty all do nothing.

    Args:
        options: strength and limits.
        optimizers: which make the updates.
    """

    def __init__(self, options: PathPenaltyOptions, optimizers: StepSizes) -> None:
        self._options = options
        self._optimizers = optimizers
        self.past = Quadratic()
        self._parameters: Mapping[str, Tensor] = {}
        self._path: PathIntegral | None = None

    def begin(self, parameters: Mapping[str, Tensor]) -> None:
        """Begin the path of a task, over the tensors that it updates; none where a network is all head."""
        if self._options.penalty and parameters:
            self._parameters = parameters
            self._path = PathIntegral(parameters)

    def before_update(self) -> None:
        """Keep the gradients of the task's loss, then add those of the pull."""
        if self._path is not None:
            self._path.before_update()
            if self.pulls("gradient"):
                self.past.add_gradients(self._parameters, 2 * self._options.penalty)

    def after_update(self) -> None:
        """Take the proximal step of the pull, then add what both have done to the path."""
        if self._path is not None:
            if self.pulls("proximal"):
                self.past.pull(self._parameters, 2 * self._options.penalty, self._optimizers)
            self._path.after_update()

    def pulls(self, step: PenaltyStep) -> bool:
        """Whether there is a pull, followed in this way."""
        return bool(self._options.penalty and self.past.importance) and self._options.penalty_step == step

    def remedy(self, otherwise: str) -> str:
        """What helps where parameters do not stay finite."""
        return f"{otherwise}, or {PROXIMAL}" if self.pulls("gradient") else otherwise

    def end(self) -> None:
        """Add the importances of the task, and pull towards where it ends."""
        options = self._options
        if self._path is not None:
            found = self._path.importance(options.damping, clamp=True)
            scaled = {name: value * options.importance_scale for name, value in found.items()}
            self.past.replace(scaled, self._parameters, decay=1.0, limit=options.max_importance)
            self._path = None

    def state_dict(self) -> dict[str, Any]:
        """Between two tasks."""
        return self.past.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.past.load_state_dict(state, device)


def without_norms(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name, but for those of norm layers."""
    layers = [(f"{name}." if name else "", layer) for name, layer in module.named_modules()]
    return {
        prefix + name: parameter
        for prefix, layer in layers
        if not isinstance(layer, NORMS)
        for name, parameter in layer.named_parameters(recurse=False)
    }
