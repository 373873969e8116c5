"""Whether a method still learns: losses and parameters are finite, and gradients move what they reach."""

from __future__ import annotations

import torch

from raycl.errors import MethodError
from raycl.spec.trial import TrialSpec
from raycl.strategies.base import Losses, Position, Strategy, total
from raycl.trial.optimizers import OptimizerSet


def check_finite(trial: TrialSpec, strategy: Strategy, optimizers: OptimizerSet, losses: Losses, at: Position) -> None:
    """After a pass over the data.

    Args:
        losses: of its last update.

    Raises:
        MethodError: they are not.
    """
    if optimizers.lost_gradients():
        raise MethodError(
            f"{trial.strategy}: a gradient reaches rows of the head that learning_units leaves out, and moves nothing "
            f"(in task {at.task}, phase {at.phase!r}); let learning_units name them, or return None for all"
        )
    finite = not losses or bool(torch.isfinite(total(losses)))
    finite = finite and all(bool(torch.isfinite(p).all()) for p in optimizers.parameters())
    if not finite:
        values = ", ".join(f"{name} {float(value):g}" for name, value in losses.items())
        raise MethodError(
            f"{trial.strategy}: losses and parameters must stay finite (got {values} in task {at.task}, phase "
            f"{at.phase!r}, epoch {at.epoch}); {strategy.remedy()}, here {trial.options}"
        )
