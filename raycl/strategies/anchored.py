"""What EWC, synaptic intelligence, memory aware synapses and L2 share: a quadratic pull towards earlier parameters."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from raycl.learning.quadratic import Quadratic
from raycl.strategies.base import Context, Position, Strategy, StrategyConfig
from raycl.streams.task import Batch

Penalty = Annotated[float, Field(ge=0, le=1e15)]
"""Strength of a pull; 0 is fine-tuning."""


class AnchoredConfig(StrategyConfig):
    """Strength of the pull."""

    penalty: Penalty = 1.0


class Anchored(Strategy):
    """Fine-tuning with ``factor * penalty / 2 * sum importance (theta - anchor)^2`` added to every task's loss.

    The gradient of the penalty is added in closed form after the backward pass. What a subclass adds is
    :meth:`~raycl.strategies.base.Strategy.end_task`: how importance is found, and whether quadratics add up.
    """

    Config = AnchoredConfig
    naive_when = {"penalty": 0.0}
    factor: ClassVar[float] = 1.0
    """2 where the paper writes its penalty without the 1/2."""

    config: AnchoredConfig

    def __init__(self, config: AnchoredConfig, context: Context) -> None:
        super().__init__(config, context)
        self.past = Quadratic()

    def parameters(self) -> dict[str, Tensor]:
        """What learns, by name."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        if self.config.penalty and self.past.importance:
            self.past.add_gradients(self.parameters(), self.factor * self.config.penalty)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "past": self.past.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.past.load_state_dict(state["past"], self.context.device)
