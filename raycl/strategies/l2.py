"""L2: every weight is pulled to where the last task left it, all weights alike.

The control of Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017
(arXiv 1612.00796), figure 2: EWC with a Fisher information of one. A method that does no better than this one has not
found out which weights matter.

    L = L_t + penalty / 2 * sum (theta - theta_(t-1))^2

Departures: one pull, to the last task's weights, as in the comparison of Hsu et al. 2018 (arXiv 1810.12488), whose code
has no 1/2; ``penalty_step: proximal`` takes it in closed form after the optimiser's step.
"""

from __future__ import annotations

import torch
from pydantic import Field

from raycl.learning.quadratic import Strength
from raycl.strategies.anchored import Anchored, AnchoredConfig
from raycl.strategies.base import TaskData


class L2Config(AnchoredConfig):
    """Strength of the pull."""

    search_space = {"penalty": {"loguniform": [1e-3, 1e3]}}

    penalty: Strength = Field(0.1, description="lambda; search 1e-3 to 1e3 on a log scale")


class L2(Anchored):
    """Stay near the last task's weights."""

    Config = L2Config
    paper = "Kirkpatrick et al. 2017, arXiv 1612.00796, figure 2"

    def end_task(self, task: int, data: TaskData) -> None:
        if self.config.penalty:
            weights = self.parameters()
            self.past.replace({name: torch.ones_like(p) for name, p in weights.items()}, weights, decay=0.0)
