"""EWC: a quadratic penalty on moving the parameters that earlier tasks need, separate or online.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017 (arXiv 1612.00796), equation 3;
online: Schwarz et al., "Progress & Compress", ICML 2018 (arXiv 1805.06370), section 3.2, and Huszar, PNAS 2018:

    separate: L = L_t + penalty / 2 * sum over i < t of F_i (theta - theta_i)^2
    online:   L = L_t + penalty / 2 * F (theta - theta_(t-1))^2,  F <- online_decay * F + F_t

Departures: the past quadratics of ``separate`` are merged into one, exactly, so that state does not grow with tasks;
``online_decay`` acts once, where F accumulates; the penalty's gradient is added in closed form after the backward pass,
and ``penalty_step: proximal`` takes the pull in closed form after the optimiser's step, which the papers do not have.
The Fisher information is a mean over examples of one task, taken over the units of the training softmax. Running
statistics of batch norm are not protected.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from raycl.learning.fisher import CLOSED_FORM, FISHER_BATCH, FisherLabels, diagonal_fisher
from raycl.learning.quadratic import Strength, require_finite
from raycl.spec.needs import Costly, Idle
from raycl.spec.options import Count, Fraction
from raycl.spec.revisions import Change
from raycl.spec.setting import Setting
from raycl.strategies.anchored import Anchored, AnchoredConfig
from raycl.strategies.base import TaskData

MANY_UNITS = 50


def _active_units(at: Setting) -> int:
    """Units inside the softmax of the last task; 0 where it is not known."""
    if at.extent is None or at.units is None:
        return 0
    own = at.per_task_head or at.training.active_logits in ("own", "current")
    return max(at.extent.sizes) if own else at.units


EXACT_IS_COSTLY = Costly(
    "fisher",
    f"takes time for each active unit, {MANY_UNITS} and more of them; 'sampled' takes one pass, and expects the same",
    lambda at: at.options.fisher == "exact" and at.options.penalty > 0 and _active_units(at) >= MANY_UNITS,
)


class EWCConfig(AnchoredConfig):
    """Strength and form of the penalty."""

    search_space = {"penalty": {"loguniform": [1, 1e10]}}
    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(("online_decay",), "only mode: online decays", lambda at: at.options.mode == "separate"),
    )

    penalty: Strength = Field(100.0, description="lambda; search 1 to 1e10 on a log scale")
    mode: Literal["separate", "online"] = Field(
        "separate", description="one quadratic per past task, or a decaying one"
    )
    online_decay: Fraction = Field(1.0, description="gamma of mode online: what is kept of F at each task")
    fisher: FisherLabels = Field("exact", description="labels of F: expected over all, one drawn, or the true one")
    fisher_examples: Count | None = Field(None, description="training examples per task, drawn at random; default: all")


class EWC(Anchored):
    """Elastic weight consolidation."""

    Config = EWCConfig
    acts_from = {**Anchored.acts_from, "fisher": 2, "fisher_examples": 2, "mode": 3, "online_decay": 3}
    between_tasks = (*Anchored.between_tasks, "fisher", "fisher_examples", "online_decay")
    paper = "Kirkpatrick et al. 2017, arXiv 1612.00796; Schwarz et al. 2018, arXiv 1805.06370"
    changes: ClassVar[tuple[Change, ...]] = (CLOSED_FORM,)
    costly: ClassVar[tuple[Costly, ...]] = (EXACT_IS_COSTLY,)

    config: EWCConfig

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
        require_finite(
            fisher, f"ewc: the Fisher information after task {task}", self.config.penalty, self.config.penalty_step
        )
        if self.config.mode == "online":
            self.past.replace(fisher, self.parameters(), self.config.online_decay)
        else:
            self.past.merge(fisher, self.parameters())
