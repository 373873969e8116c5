"""SI: a quadratic pull on the weights that lowered the loss most while earlier tasks were learned.

Zenke, Poole and Ganguli, "Continual learning through synaptic intelligence", ICML 2017 (arXiv 1703.04200), equations 3
to 5:

    L = L_t + penalty * sum Omega (theta - theta_(t-1))^2
    Omega <- Omega + max(0, omega) / (displacement^2 + damping)

omega integrates over the updates of one task: the gradient of the task's loss alone, before clipping, times the
displacement that the optimiser really made. There is no 1/2: ``penalty`` is the paper's c.

Departures: the penalty's gradient is added in closed form after the backward pass; ``penalty_step: proximal``, which
the paper does not have, takes the pull in closed form after the optimiser's step, and omega sees both as one
displacement. Negative omega is cut at 0, which the paper does not write; ``clamp: false`` leaves it, and then such
weights are pushed away from their place.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from raycl.learning.path_integral import PathIntegral
from raycl.learning.quadratic import Strength
from raycl.spec.options import Positive
from raycl.strategies.anchored import Anchored, AnchoredConfig
from raycl.strategies.base import Context, Position, TaskData
from raycl.streams.task import Batch


class SIConfig(AnchoredConfig):
    """Strength and damping."""

    search_space = {"penalty": {"loguniform": [1e-3, 1e5]}}

    penalty: Strength = Field(1.0, description="c; search 1e-3 to 1e5 on a log scale")
    damping: Positive = Field(0.1, description="xi; it and the penalty trade off, so fix one of them")
    clamp: bool = Field(True, description="weights that raised the loss are unimportant, not repelled")

    @model_validator(mode="after")
    def _a_push_has_no_minimum(self) -> SIConfig:
        if self.penalty_step == "proximal" and not self.clamp:
            raise ValueError("a proximal step needs importances that are not negative; set clamp: true, or gradient")
        return self


class SI(Anchored):
    """Synaptic intelligence."""

    Config = SIConfig
    keeps_best: ClassVar[bool] = False
    acts_from = {**Anchored.acts_from, "damping": 2, "clamp": 2}
    between_tasks = (*Anchored.between_tasks, "damping")
    paper = "Zenke, Poole and Ganguli 2017, arXiv 1703.04200"
    factor = 2.0

    config: SIConfig

    def __init__(self, config: SIConfig, context: Context) -> None:
        super().__init__(config, context)
        self._path: PathIntegral | None = None

    def begin_task(self, task: int, data: TaskData) -> None:
        if self.config.penalty:
            self._path = PathIntegral(self.parameters())

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        if self._path is not None:
            self._path.before_update()
        super().edit_gradients(batch, at)

    def after_update(self, batch: Batch, at: Position) -> None:
        super().after_update(batch, at)
        if self._path is not None:
            self._path.after_update()

    def end_task(self, task: int, data: TaskData) -> None:
        if self._path is not None:
            importance = self._path.importance(self.config.damping, self.config.clamp)
            self.past.replace(importance, self.parameters(), decay=1.0)
            self._path = None
