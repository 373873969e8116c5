"""L2 Init: every weight is pulled to where it began, so that the network can always learn something new.

Kumar, Marklund and Van Roy, "Maintaining plasticity in continual learning via regenerative regularization", 2023 (arXiv
2308.11958), equation 1:

    L = L_t + penalty * sum (theta - theta_0)^2

Dohare et al., "Loss of plasticity in deep continual learning", Nature 2024, pull to 0 instead, which is
``training.weight_decay``.

Departures: output units that come with a later task are pulled to where they began then; ``penalty_step: proximal``
takes the pull in closed form after the optimiser's step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field

from raycl.learning.quadratic import Strength
from raycl.strategies.anchored import Anchored, AnchoredConfig


class L2InitConfig(AnchoredConfig):
    """Strength of the pull."""

    search_space = {"penalty": {"loguniform": [1e-5, 1e-1]}}

    penalty: Strength = Field(1e-3, description="lambda, without a 1/2; search 1e-5 to 0.1 on a log scale")


class L2Init(Anchored):
    """Stay near the initial weights."""

    Config = L2InitConfig
    acts_from = {}
    stability = None
    paper = "Kumar, Marklund and Van Roy 2023, arXiv 2308.11958"
    boundary_free: ClassVar[bool] = True
    factor: ClassVar[float] = 2.0

    def grow(self, task: int) -> None:
        """Rows of the head that are new begin here, and are pulled back here ever after."""
        super().grow(task)
        if self.config.penalty:
            start = self.parameters()
            for name, known in self.past.anchor.items():
                start[name] = torch.cat([known, start[name].detach()[len(known) :]]) if known.dim() else known
            self.past.replace({name: torch.ones_like(p) for name, p in start.items()}, start, decay=0.0)

    def learning_units(self, task: int) -> Sequence[range] | None:
        """The pull reaches the heads of all tasks, which have moved since they began."""
        return None if self.config.penalty else super().learning_units(task)
