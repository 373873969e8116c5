"""What EWC, synaptic intelligence, memory aware synapses and L2 share: a quadratic pull towards earlier parameters."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from raycl.learning.quadratic import PROXIMAL, PenaltyStep, Quadratic, Strength
from raycl.spec.protocols import Decay
from raycl.strategies.base import Context, Position, Strategy, StrategyConfig
from raycl.streams.task import Batch


class AnchoredConfig(StrategyConfig):
    """Strength of the pull."""

    penalty: Strength = 1.0
    penalty_step: PenaltyStep = "gradient"


class Anchored(Strategy):
    """Fine-tuning with ``factor * penalty / 2 * sum importance (theta - anchor)^2`` added to every task's loss.

    The penalty's gradient is added in closed form after the backward pass (``penalty_step: gradient``), or its proximal
    step is taken after the optimiser's (``proximal``); what that means, :mod:`raycl.learning.quadratic` says. What a
    subclass adds is :meth:`~raycl.strategies.base.Strategy.end_task`: how importance is found, and whether quadratics
    add up.
    """

    Config = AnchoredConfig
    acts_from = {"penalty": 2, "penalty_step": 2}
    between_tasks: ClassVar[tuple[str, ...]] = ("penalty", "penalty_step")
    stability: ClassVar[tuple[Decay, ...] | None] = (Decay(option="penalty"),)
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
        if self._pulls("gradient"):
            self.past.add_gradients(self.parameters(), self.factor * self.config.penalty)

    def after_update(self, batch: Batch, at: Position) -> None:
        if self._pulls("proximal"):
            self.past.pull(self.parameters(), self.factor * self.config.penalty, self.context.optimizers)

    def _pulls(self, step: PenaltyStep) -> bool:
        """Whether there is a penalty, followed in this way."""
        return bool(self.config.penalty and self.past.importance) and self.config.penalty_step == step

    def remedy(self) -> str:
        return f"{super().remedy()}, or {PROXIMAL}" if self._pulls("gradient") else super().remedy()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "past": self.past.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.past.load_state_dict(state["past"], self.context.device)
