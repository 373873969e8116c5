"""MAS: a quadratic penalty on moving the parameters to which the outputs of the network are sensitive.

Aljundi, Babiloni, Elhoseiny, Rohrbach and Tuytelaars, "Memory Aware Synapses: learning what (not) to forget", ECCV 2018
(arXiv 1711.09601), equations 3 and 4:

    L = L_t + penalty * sum Omega (theta - theta*)^2,  Omega <- decay * Omega + Omega_t,  theta* <- theta_t

``penalty`` is the paper's lambda, without the 1/2 that EWC has. Omega_t is the mean over examples of the absolute
gradient of the squared norm of the logits (:mod:`raycl.learning.sensitivity`); it needs no labels.

Departures: only the units that were active in training count as output (the task's own head, or the classes seen);
``decay`` below 1, which the paper does not have; Omega_t is taken on the training data of the task, while the paper may
also take other unlabelled data; the penalty's gradient is added in closed form after the backward pass;
``penalty_step: proximal``, which the paper does not have, takes the pull in closed form after the optimiser's step.
Running statistics of batch norm are not protected.
"""

from __future__ import annotations

from pydantic import Field

from raycl.learning.quadratic import Strength, require_finite
from raycl.learning.sensitivity import output_sensitivity
from raycl.spec.options import Count, Fraction
from raycl.strategies.anchored import Anchored, AnchoredConfig
from raycl.strategies.base import TaskData

IMPORTANCE_BATCH = 128


class MASConfig(AnchoredConfig):
    """Strength of the penalty, and what its importance is taken from."""

    search_space = {"penalty": {"loguniform": [1e-2, 1e4]}}

    penalty: Strength = Field(
        1.0, description="lambda of lambda * sum Omega (theta - theta*)^2, no 1/2; search 0.01 to 1e4 on a log scale"
    )
    decay: Fraction = Field(1.0, description="what is kept of Omega at each task; 1: the sum over tasks, as published")
    importance_examples: Count | None = Field(
        None, description="training examples per task, drawn at random; default: all"
    )


class MAS(Anchored):
    """Memory aware synapses."""

    Config = MASConfig
    acts_from = {**Anchored.acts_from, "importance_examples": 2, "decay": 3}
    between_tasks = (*Anchored.between_tasks, "importance_examples", "decay")
    paper = "Aljundi et al. 2018, arXiv 1711.09601"
    factor = 2.0

    config: MASConfig

    def end_task(self, task: int, data: TaskData) -> None:
        if not self.config.penalty:
            return
        scenario = self.context.scenario
        importance = output_sensitivity(
            self.network,
            data.batches(IMPORTANCE_BATCH, self.config.importance_examples),
            lambda batch: scenario.mask(batch.task, scenario.policy, task),
        )
        subject = f"mas: the importance of parameters after task {task}"
        require_finite(importance, subject, self.config.penalty, self.config.penalty_step)
        self.past.replace(importance, self.parameters(), self.config.decay)
