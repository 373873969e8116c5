"""AR1: CWR's head over a trunk that learns on, slowly, held by synaptic intelligence.

Maltoni and Lomonaco, "Continuous learning in single-incremental-task scenarios", 2019 (arXiv 1806.08568), algorithm 3:
the head of CWR+ and the penalty of :mod:`raycl.learning.path_penalty` on the trunk. AR1* has the head of CWR*
(Lomonaco, Maltoni and Pellegrini 2020, arXiv 1907.03799): ``variant: cwr_star``. With ``penalty: 0`` the trunk is held
by its learning rate alone; with ``trunk_learning_rate: 0`` this is CWR+ or CWR*. Neither the head nor norm layers are
pulled: the head's rows are consolidated instead.

Departures: those of :mod:`raycl.strategies.consolidated.cwr`. Running statistics of batch norm stay as they are once
the trunk has settled, where the paper has batch renormalisation whose statistics move slowly. The penalty is a factor
of its own and importances are scaled alike in all tasks; the authors have weights that differ between the first task
and the others.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from raycl.learning.path_penalty import PULL, PathPenalty, PathPenaltyOptions, without_norms
from raycl.learning.quadratic import Strength
from raycl.spec.needs import Idle
from raycl.spec.options import Fraction
from raycl.strategies.base import Context, Position, TaskData
from raycl.strategies.consolidated.base import Consolidated, ConsolidatedConfig
from raycl.strategies.lower_part import settled_from
from raycl.streams.task import Batch


class AR1Config(PathPenaltyOptions, ConsolidatedConfig):
    """How the trunk is held, and how heads are consolidated."""

    search_space: ClassVar[dict[str, Any]] = {
        "penalty": {"loguniform": [1, 1e6]},
        "trunk_learning_rate": {"loguniform": [1e-3, 1]},
        "head_learning_rate": {"choice": [1.0, 10.0]},
    }

    ignores: ClassVar[tuple[Idle, ...]] = (
        *PathPenaltyOptions.ignores,
        Idle(
            ("penalty", "damping", "importance_scale", "max_importance"),
            "with trunk_learning_rate: 0 there is nothing to pull",
            lambda at: not at.options.trunk_learning_rate,
        ),
    )

    penalty: Strength = Field(1e3, description="strength of the pull; 0: held by its learning rate")
    variant: Literal["cwr_plus", "cwr_star"] = Field("cwr_plus", description="the head of AR1; cwr_star: of AR1*")
    trunk_learning_rate: Fraction = Field(
        0.05, description="factor on the learning rate of the trunk once it has settled; 0 freezes it"
    )


class AR1(Consolidated):
    """Consolidate the head, hold the trunk."""

    Config = AR1Config
    acts_from = dict.fromkeys(PULL, 2) | dict.fromkeys(("head_learning_rate", "trunk_learning_rate"), settled_from)
    between_tasks = (*PULL, "head_learning_rate")
    paper: ClassVar[str] = "Maltoni and Lomonaco 2019, AR1 (arXiv 1806.08568)"

    config: AR1Config

    def __init__(self, config: AR1Config, context: Context) -> None:
        super().__init__(config, context, variant=config.variant, learning_rate=config.trunk_learning_rate)
        self.pull = PathPenalty(config, context.optimizers)

    def begin_task(self, task: int, data: TaskData) -> None:
        super().begin_task(task, data)
        if self.config.trunk_learning_rate:
            self.pull.begin(without_norms(self.network.backbone))

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        self.pull.before_update()

    def remedy(self) -> str:
        return self.pull.remedy(super().remedy())

    def after_update(self, batch: Batch, at: Position) -> None:
        self.pull.after_update()

    def end_task(self, task: int, data: TaskData) -> None:
        super().end_task(task, data)
        self.pull.end()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "pull": self.pull.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.pull.load_state_dict(state["pull"], self.context.device)
