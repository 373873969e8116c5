"""EWC: a quadratic penalty on moving the parameters that earlier tasks need, separate or online.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017 (arXiv 1612.00796), equation 3;
online: Schwarz et al., "Progress & Compress", ICML 2018 (arXiv 1805.06370), section 3.2, and Huszar, PNAS 2018:

    separate: L = L_t + penalty / 2 * sum over i < t of F_i (theta - theta_i)^2
    online:   L = L_t + penalty / 2 * F (theta - theta_(t-1))^2,  F <- online_decay * F + F_t

Departures: the past quadratics of ``separate`` are merged into one, exactly, so that state does not grow with tasks;
the penalty's gradient is added in closed form after the backward pass; ``online_decay`` acts once, where F accumulates.
The Fisher information is a mean over examples of one task, taken over the units of the training softmax. Running
statistics of batch norm are not protected.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from raycl.learning.fisher import FisherLabels, diagonal_fisher
from raycl.learning.quadratic import Quadratic, require_finite
from raycl.spec.options import Count, Fraction
from raycl.strategies.base import Context, Position, Strategy, StrategyConfig, TaskData
from raycl.streams.task import Batch

FISHER_BATCH = 128


class EWCConfig(StrategyConfig):
    """Strength and form of the penalty."""

    search_space = {"penalty": {"loguniform": [1, 1e10]}}

    penalty: Annotated[float, Field(ge=0, le=1e15)] = Field(
        100.0, description="lambda; search 1 to 1e10 on a log scale"
    )
    mode: Literal["separate", "online"] = Field(
        "separate", description="one quadratic per past task, or a decaying one"
    )
    online_decay: Fraction = Field(1.0, description="gamma of mode online: what is kept of F at each task")
    fisher: FisherLabels = Field("exact", description="labels of F: expected over all, one drawn, or the true one")
    fisher_examples: Count | None = Field(None, description="training examples per task, drawn at random; default: all")


class EWC(Strategy):
    """Elastic weight consolidation."""

    Config = EWCConfig
    paper = "Kirkpatrick et al. 2017, arXiv 1612.00796; Schwarz et al. 2018, arXiv 1805.06370"
    naive_when = {"penalty": 0.0}

    config: EWCConfig

    def __init__(self, config: EWCConfig, context: Context) -> None:
        super().__init__(config, context)
        self.past = Quadratic()

    def _parameters(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        if self.config.penalty and self.past.importance:
            self.past.add_gradients(self._parameters(), self.config.penalty)

    def end_task(self, task: int, data: TaskData) -> None:
        if not self.config.penalty:
            return
        scenario = self.context.scenario
        fisher = diagonal_fisher(
            self.network,
            data.batches(FISHER_BATCH, self.config.fisher_examples),
            lambda batch: scenario.mask(batch.task, scenario.policy, task),
            self.config.fisher,
            self.context.generator("fisher"),
        )
        require_finite(fisher, f"ewc: the Fisher information after task {task}", self.config.penalty)
        if self.config.mode == "online":
            self.past.replace(fisher, self._parameters(), self.config.online_decay)
        else:
            self.past.merge(fisher, self._parameters())

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "past": self.past.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.past.load_state_dict(state["past"], self.context.device)
