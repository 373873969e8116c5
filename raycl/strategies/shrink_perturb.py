"""Shrink and perturb: weights shrink a little and are shaken a little, so that no unit dies for good.

Ash and Adams, "On warm-starting neural network training", NeurIPS 2020 (arXiv 1910.08475): before new data are learned,

    theta <- (1 - decay) theta + noise * N(0, 1)

with 1 - decay of .6 and noise of .01 in their experiments (``when: task``). Dohare et al., "Loss of plasticity in deep
continual learning", Nature 2024, do so in every update, where decay is multiplied by the learning rate (``when:
update``); their runs on Online Permuted MNIST take a decay of 1e-4 and a noise of 1e-4, 1e-5 (the one that is plotted)
or 1e-6, with SGD at .003. All weights and biases take part, those of the head too.

``auto`` is what was published for the ``when`` in question.

Departures:
- Dohare et al. take the decay from torch's SGD, which adds it to the gradient. Here the weights shrink before the step,
  which for plain SGD is the same up to rounding, and for other optimisers what AdamW does. ``training.weight_decay``
  stays what it is, and comes on top.
- Rows of a head that no loss of the task reaches stay as they are.
- With ``when: task`` nothing happens before the first task.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raycl.spec.needs import Need
from raycl.spec.options import Fraction, NonNegative
from raycl.strategies.base import Position, Strategy, StrategyConfig, TaskData
from raycl.streams.task import Batch

PUBLISHED = {"update": (1e-4, 1e-5), "task": (0.4, 0.01)}
"""Decay and noise that ``auto`` stands for."""


class ShrinkPerturbConfig(StrategyConfig):
    """How much weights shrink, and how much they are shaken."""

    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "when",
            "asks when a task begins, which nobody tells where stream.boundaries is 'hidden'; set update",
            lambda at: not (at.hidden and at.options.when == "task"),
        ),
    )
    search_space = {"decay": {"loguniform": [1e-5, 1e-2]}, "noise": {"loguniform": [1e-6, 1e-3]}}

    when: Literal["update", "task"] = Field(
        "update", description="in every update (Dohare et al. 2024), or before every task but the first (Ash and Adams)"
    )
    decay: Fraction | Literal["auto"] = Field(
        "auto",
        description="share by which weights shrink, of update times training.learning_rate; auto: 1e-4 of update, .4 "
        "of task",
    )
    noise: NonNegative | Literal["auto"] = Field(
        "auto", description="standard deviation of what is added; auto: 1e-5 of update, .01 of task"
    )

    @property
    def strength(self) -> tuple[float, float]:
        """Decay and noise as numbers."""
        decay, noise = PUBLISHED[self.when]
        return decay if self.decay == "auto" else self.decay, noise if self.noise == "auto" else self.noise


class ShrinkPerturb(Strategy):
    """Shrink, and perturb."""

    Config = ShrinkPerturbConfig
    acts_from = dict.fromkeys(("decay", "noise"), lambda at: 2 if at.options.when == "task" else 1)
    between_tasks = ("decay", "noise")
    stability = ()
    paper: ClassVar[str] = "Ash and Adams 2020, arXiv 1910.08475; Dohare et al. 2024, Nature 632"
    boundary_free: ClassVar[bool] = True
    naive_when = {"decay": 0.0, "noise": 0.0}

    config: ShrinkPerturbConfig

    def begin_task(self, task: int, data: TaskData) -> None:
        if self.config.when == "task" and task:
            self._shrink(self.config.strength[0])
            self._perturb()

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        if self.config.when == "update":
            self._shrink(self.learning_rate * self.config.strength[0])

    def after_update(self, batch: Batch, at: Position) -> None:
        if self.config.when == "update":
            self._perturb()

    def _shrink(self, share: float) -> None:
        if share:
            for weights in self._learning():
                weights.mul_(1 - share)

    def _perturb(self) -> None:
        noise = self.config.strength[1]
        if not noise:
            return
        parts = list(self._learning())
        drawn = torch.randn(sum(part.numel() for part in parts), generator=self.context.generator("perturbation"))
        drawn = drawn.to(self.context.device)
        for part, own in zip(parts, drawn.split([part.numel() for part in parts]), strict=True):
            part.add_(own.view_as(part), alpha=noise)

    def _learning(self) -> Iterator[Tensor]:
        """Views of all that the task's losses reach."""
        divided = self.learning_rows(self.task)
        for parameter in self.network.parameters():
            if parameter.requires_grad:
                for rows in divided.get(parameter, (range(len(parameter)),)):
                    yield parameter.data[rows.start : rows.stop]
