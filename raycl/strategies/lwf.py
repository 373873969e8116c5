"""LwF: while a new task is learned, answers on its images keep what the previous network would have said.

Li and Hoiem, "Learning without forgetting", ECCV 2016 and TPAMI 2017 (arXiv 1606.09282), equations 1 to 3:

    L = L_t + penalty * sum over old heads of KL(teacher || student), softmaxes at a temperature of 2

The teacher is the network as it stood before the task. One softmax per old head where the task id is given, one over
all units seen before in class-incremental learning, one over the shared units in domain-incremental learning. The
weight decay R of equation 1 is ``training.weight_decay``; old heads are trained along.

Departures: no warm-up by default. The paper first trains the new head alone, trunk and old heads held, until it no
longer improves, and calls what this gives its method a slight enhancement; how long that is it does not say, it costs
epochs that other methods do not have, and tasks that share their units have no new head to warm. It is
``warmup_epochs``, as many as a sweep asks for. The KL form, which differs from the paper's cross-entropy by a constant;
by default times T^2 (Hinton et al. 2015, arXiv 1503.02531), which the paper does not write: ``squared_temperature`` is
part of the result, since a penalty found with one convention is T^2 off with the other. Teacher answers are computed
anew for every batch, so that augmented images have theirs. ``combine: task_share`` and ``new_units: included`` are
those of van de Ven and Tolias 2019 (arXiv 1904.07734).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raycl.errors import MethodError
from raycl.learning.distillation import Softmaxes, distillation, frozen_copy
from raycl.learning.ownership import FrozenEntries
from raycl.models.network import Network
from raycl.spec.needs import Need
from raycl.spec.options import CountFromZero, Positive
from raycl.spec.protocols import Decay
from raycl.strategies.base import (
    Context,
    Epochs,
    Losses,
    Phase,
    Position,
    Strategy,
    StrategyConfig,
    TaskData,
    nested_bytes,
)
from raycl.streams.task import Batch


class LwFConfig(StrategyConfig):
    """How much old answers count, and between which units."""

    search_space = {"penalty": {"loguniform": [0.01, 100]}, "temperature": {"choice": [1.0, 2.0, 4.0]}}

    penalty: Annotated[float, Field(ge=0, le=1e15)] = Field(1.0, description="lambda_o; search 0.01 to 100, log scale")
    temperature: Positive = Field(2.0, description="T of both softmaxes")
    squared_temperature: bool = Field(True, description="distillation times T^2, so that its size does not fall with T")
    combine: Literal["sum", "task_share"] = Field(
        "sum", description="task + penalty * sum over old heads; or 1/t task + (1 - 1/t) penalty * their mean"
    )
    new_units: Literal["excluded", "included"] = Field(
        "excluded", description="class-incremental: whether the student's softmax runs over new units too, target 0"
    )
    warmup_epochs: CountFromZero = Field(
        0,
        description="epochs in which only the new output units learn, before all weights do, on top of training's; a "
        "step of the paper's procedure, there until convergence; 0: none",
    )


class LwF(Strategy):
    """Learning without forgetting."""

    Config = LwFConfig
    acts_from = dict.fromkeys(("penalty", "temperature", "squared_temperature", "combine", "new_units"), 2)
    between_tasks = ("penalty", "temperature", "squared_temperature", "combine", "new_units")
    stability = (Decay(option="penalty"),)
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "warmup_epochs",
            "warms up output units that are new, and tasks share theirs here; set 0, or model.head: per_task",
            lambda at: not (at.options.warmup_epochs and at.shared_units),
        ),
        Need(
            "warmup_epochs",
            "is a pass over the task before the one that learns it, and where training.real_time is set batches come "
            "once; use 0",
            lambda at: not (at.options.warmup_epochs and at.training.real_time),
        ),
    )
    paper = "Li and Hoiem 2016, arXiv 1606.09282"
    naive_when = {"penalty": 0.0}

    config: LwFConfig

    def __init__(self, config: LwFConfig, context: Context) -> None:
        super().__init__(config, context)
        if config.warmup_epochs and context.scenario.shared:
            raise MethodError(
                f"lwf: a warm-up trains new output units, and all tasks share theirs here (got warmup_epochs "
                f"{config.warmup_epochs}); set warmup_epochs: 0"
            )
        self._teacher: Network | None = None
        self._softmaxes: Softmaxes | None = None
        self._new_units: Tensor | None = None
        self._warming_up = False
        self._held = FrozenEntries({}, {})

    # -- the task ----------------------------------------------------------------------------------------------

    def learning_units(self, task: int) -> Sequence[range] | None:
        """Old answers are kept by all old heads."""
        return None if task and self.config.penalty and not self._warming_up else super().learning_units(task)

    def begin_task(self, task: int, data: TaskData) -> None:
        if not task or not self.config.penalty:
            return
        self._teacher = frozen_copy(self.network)
        self._softmaxes = Softmaxes(self._old_softmaxes(task), self.context.device)
        if self.config.new_units == "included" and not self.context.scenario.per_task_head:
            outputs = torch.arange(self.network.head.outputs, device=self.context.device)
            new = outputs[~torch.isin(outputs, self._softmaxes.place)]
            self._new_units = new if len(new) else None

    def _old_softmaxes(self, task: int) -> list[range]:
        scenario = self.context.scenario
        if scenario.per_task_head:
            return [scenario.units(old) for old in range(task)]
        return [range(max(scenario.units(old).stop for old in range(task)))]

    def phases(self, task: int) -> Sequence[Phase]:
        if not task or not self.config.warmup_epochs:
            return super().phases(task)
        return (
            Phase("warm_up", Epochs(self.config.warmup_epochs), start=self._begin_warm_up, new_optimizers=True),
            Phase("train", self.length(), start=self._end_warm_up, new_optimizers=True),
        )

    def _begin_warm_up(self) -> None:
        self._warming_up = True
        self.network.backbone.requires_grad_(False)
        units, head = self.context.scenario.units(self.task), dict(self.network.head.named_parameters())
        old = {name: torch.ones_like(p, dtype=torch.bool) for name, p in head.items()}
        for mask in old.values():
            mask[units.start : units.stop] = False
        self._held = FrozenEntries(head, old)

    def _end_warm_up(self) -> None:
        self._warming_up = False
        self.network.backbone.requires_grad_(True)
        self._held = FrozenEntries({}, {})

    def train(self, mode: bool) -> None:
        super().train(mode)
        if self._teacher is not None:
            self._teacher.eval()
        if self._warming_up:
            self.network.backbone.eval()

    # -- the update --------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        logits = self.network(batch.x)
        task = self.cross_entropy(logits, batch)
        if self._teacher is None or self._softmaxes is None or self._warming_up:
            return {"task": task}
        with torch.no_grad():
            answers = self._teacher(batch.x)
        config = self.config
        kept = distillation(
            logits, answers, self._softmaxes, config.temperature, config.squared_temperature, self._new_units
        )
        if config.combine == "sum":
            return {"task": task, "distillation": config.penalty * kept}
        share = 1 / (self.task + 1)
        mean = kept / len(self._softmaxes)
        return {"task": share * task, "distillation": (1 - share) * config.penalty * mean}

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        self._held.zero_gradients()

    def after_update(self, batch: Batch, at: Position) -> None:
        self._held.restore()

    # -- state -------------------------------------------------------------------------------------------------

    def state_bytes(self) -> int:
        """The teacher is made anew from the network at every task, and charged all the same."""
        return super().state_bytes() + (nested_bytes(self._teacher.state_dict()) if self._teacher is not None else 0)
