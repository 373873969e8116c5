"""GDumb: keep a class-balanced memory, and train a new network on nothing else whenever one is asked for.

Prabhu, Torr and Dokania, "GDumb: a simple approach that questions our progress in continual learning", ECCV 2020. The
greedy balanced sampler is ``memory.selection: greedy``. Nothing is learned while the stream passes; each evaluation is
a query, so after each task a network is drawn anew and fitted to the memory. With a task id the evaluator masks its
units.

Departures: no CutMix (the authors use none on MNIST); rows are sampled from the stream as it passes (their code takes
the first of each class from the data set); the last network counts, not the best epoch on test data. Where tasks share
their output units the memory is balanced over pairs of task and class: by class alone it would be full, and closed,
once the first task has passed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from raycl.spec.needs import Idle, Need
from raycl.spec.options import Count, Fraction, NonNegative, Positive
from raycl.strategies.base import (
    Epochs,
    Losses,
    Phase,
    Position,
    Source,
    Strategy,
    StrategyConfig,
    Trainable,
)
from raycl.streams.task import Batch


class GDumbConfig(StrategyConfig):
    """How a new network is fitted to the memory."""

    search_space: ClassVar[dict[str, Any]] = {"learning_rate": {"loguniform": [5e-3, 0.2]}}

    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(
            ("learning_rate", "final_learning_rate", "momentum", "weight_decay", "gradient_clip"),
            "optimizer: training takes those of the training block",
            lambda at: at.options.optimizer == "training",
        ),
    )

    passes: Count = Field(128, description="over the memory; a power of two ends at the bottom of the last cosine")
    batch_size: Count = Field(16, description="rows of the memory per update")
    optimizer: Literal["sgd", "training"] = Field(
        "sgd", description="the authors' SGD with the options below; or what training says, at a constant rate"
    )
    learning_rate: Positive = Field(0.05, description="of sgd, at the top of each cosine")
    final_learning_rate: NonNegative = Field(5e-4, description="at the bottom of each cosine")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of sgd")
    weight_decay: Fraction = Field(1e-6, description="of sgd: times a weight, added to its gradient")
    gradient_clip: NonNegative = Field(10.0, description="largest norm of the gradient; 0 clips nothing")


class GDumb(Strategy):
    """Collect, then fit from scratch."""

    Config = GDumbConfig
    keeps_best: ClassVar[bool] = False
    between_tasks = ("passes", "batch_size", "learning_rate", "final_learning_rate", "weight_decay", "gradient_clip")
    stability = ()
    one_pass: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "stream.boundaries",
            "must be given: where tasks share output units, the memory is balanced over pairs of task and class",
            lambda at: not (at.hidden and at.shared_units),
            bars=True,
        ),
        Need(
            "memory.capacity",
            "batch norm has no statistics of one row, and the memory is all that is learned; keep more rows",
            lambda at: not at.flat_batch_norm or at.memory.unit != "total" or at.memory.capacity != 1,
        ),
        Need(
            "batch_size",
            "batch norm has no statistics of one row; set it above 1, or model.norm: none",
            lambda at: not at.flat_batch_norm or at.options.batch_size > 1,
        ),
    )
    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(
            ("training.epochs", "training.iterations", "training.reset_optimizer"),
            "a new network is fitted to the memory after each task; set passes",
        ),
        Idle(
            ("training.batch_size",),
            "rows are collected one by one; set the method's own batch_size",
            lambda at: at.selection != "random",
        ),
        Idle(
            (
                "training.optimizer",
                "training.learning_rate",
                "training.momentum",
                "training.weight_decay",
                "training.gradient_clip",
                "training.schedule",
                "training.warm_up",
                "training.nesterov",
                "training.betas",
            ),
            "the method has its own; set those, or optimizer: training",
            lambda at: at.options.optimizer == "sgd",
        ),
        Idle(
            ("memory.batch_size", "memory.combine", "memory.insert", "memory.mix"),
            "rows are offered once, and learned from the memory alone",
        ),
    )
    uses_memory: ClassVar[bool] = True
    selection: ClassVar[str] = "greedy"
    boundary_free: ClassVar[bool] = True
    paper: ClassVar[str] = "Prabhu, Torr and Dokania 2020, GDumb (ECCV)"

    config: GDumbConfig

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        options = self.config
        if options.optimizer == "training":
            return super().trainable(task)
        own = options.model_dump(include={"learning_rate", "momentum", "weight_decay", "gradient_clip"})
        plain = {"optimizer": "sgd", "schedule": "constant", "warm_up": 0.0, "nesterov": False}
        training = self.context.training.model_copy(update=plain | own)
        return {"network": Trainable([{"params": list(self.network.parameters())}], training)}

    def phases(self, task: int) -> Sequence[Phase]:
        options = self.config
        return (
            Phase("collect", Epochs(1), order="stream", step=self._collect),
            Phase(
                "fit",
                Epochs(options.passes),
                Source.MEMORY,
                batch_size=options.batch_size,
                start=self._renew,
                new_optimizers=True,
                learning_rate=self._rate if options.optimizer == "sgd" else None,
            ),
        )

    def _collect(self, batch: Batch, at: Position) -> Losses:
        self.memory.add({"image": batch.image, "label": self._balanced_over(batch), "task": batch.task})
        return {}

    def _balanced_over(self, batch: Batch) -> Tensor:
        """What the sampler takes for a class ``[batch]``: the output unit, with its task where units are shared."""
        scenario = self.context.scenario
        return batch.y + batch.task * scenario.num_outputs if scenario.shared else batch.y

    def loss(self, batch: Batch) -> Losses:
        return super().loss(replace(batch, y=batch.y % self.context.scenario.num_outputs))

    def _renew(self) -> None:
        self.network = self.context.new_network().to(self.context.device)
        self.network.grow_head(self.context.scenario.outputs(self.task))

    def _rate(self, at: Position) -> float:
        lowest = self.config.final_learning_rate / self.config.learning_rate
        return warm_restarts(at.epoch, lowest)


def warm_restarts(epoch: int, lowest: float) -> float:
    """Factor on the learning rate: a tenth in epoch 0, then from epoch 1 cosines over 1, 2, 4, ... epochs.

    Loshchilov and Hutter, "SGDR", ICLR 2017, eq. 5, with T_0 = 1 and T_mult = 2.

    Args:
        lowest: the factor at the bottom of a cosine.
    """
    if epoch == 0:
        return 0.1
    cycle = int(math.log2(epoch))
    length = 2**cycle
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * (epoch - length) / length)) / 2
