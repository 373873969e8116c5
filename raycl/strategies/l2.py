"""L2: every weight is pulled to where the last task left it, all weights alike.

The control of Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017
(arXiv 1612.00796), figure 2: EWC with a Fisher information of one. A method that does no better than this one has not
found out which weights matter.

    L = L_t + penalty / 2 * sum (theta - theta_(t-1))^2

Departure: one pull, to the last task's weights, as in the comparison of Hsu et al. 2018 (arXiv 1810.12488), whose code
has no 1/2.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from raycl.learning.quadratic import Quadratic
from raycl.strategies.base import Context, Position, Strategy, StrategyConfig, TaskData
from raycl.streams.task import Batch


class L2Config(StrategyConfig):
    """Strength of the pull."""

    search_space = {"penalty": {"loguniform": [1e-3, 1e3]}}

    penalty: Annotated[float, Field(ge=0, le=1e15)] = Field(
        0.1, description="lambda; search 1e-3 to 1e3 on a log scale"
    )


class L2(Strategy):
    """Stay near the last task's weights."""

    Config = L2Config
    paper = "Kirkpatrick et al. 2017, arXiv 1612.00796, figure 2"
    naive_when = {"penalty": 0.0}

    def __init__(self, config: L2Config, context: Context) -> None:
        super().__init__(config, context)
        self.past = Quadratic()

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        self.past.add_gradients(dict(self.network.named_parameters()), self.config.penalty)

    def end_task(self, task: int, data: TaskData) -> None:
        if self.config.penalty:
            weights = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
            ones = {name: torch.ones_like(p) for name, p in weights.items()}
            self.past.replace(ones, weights, decay=0.0)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "past": self.past.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.past.load_state_dict(state["past"], self.context.device)
