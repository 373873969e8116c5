"""Feature extraction: a trunk frozen after the first task, or from the start, under a classifier that learns on.

The usual control for methods that adapt their features; "feature extraction" in Li and Hoiem, "Learning without
forgetting", ECCV 2016 (arXiv 1606.09282). ``freeze: from_start`` is meant for a model with pretrained ``weights``.
Frozen means without gradients, outside the optimiser and in evaluation mode, so that running statistics stay as well.

``classifier: softmax`` trains a linear head. Where tasks have units of their own, only those of the current task learn
and compete (``active_logits: current``), and old rows of the head stay as they are; with ``seen`` or ``all`` they
compete and are pushed down. ``ncm`` (nearest class mean) and ``slda`` (linear discriminant analysis) follow in closed
form from running sums of the features (:mod:`raycl.learning.class_statistics`), in any order of examples and tasks.
A trunk that is not yet frozen learns its features with the softmax head.

A frozen trunk sees each row once a task: its features are kept for the task's updates, unless the stream augments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raycl.errors import Problem, SpecError
from raycl.learning.class_statistics import ClassStatistics
from raycl.spec.needs import Idle
from raycl.spec.options import Fraction
from raycl.strategies.base import (
    Context,
    Epochs,
    Losses,
    Phase,
    Rows,
    Strategy,
    StrategyConfig,
    TaskData,
    Trainable,
    Updates,
)
from raycl.strategies.lower_part import FREEZE, Freeze, LowerPart
from raycl.streams.task import Batch

FEATURE_BATCH = 1000
"""Rows that go through the trunk at once where nothing is learned from them."""


class FeatureExtractionConfig(StrategyConfig):
    """When the trunk is frozen, and what classifies its features."""

    search_space: ClassVar[dict[str, Any]] = {"classifier": {"choice": ["softmax", "ncm", "slda"]}}

    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(("shrinkage",), "only classifier: slda shrinks", lambda at: at.options.classifier != "slda"),
        Idle(
            ("training",),
            "closed forms on a trunk that is frozen from the start train nothing",
            lambda at: at.options.classifier != "softmax" and at.options.freeze == "from_start",
        ),
    )

    freeze: Freeze = Field("after_first_task", description=FREEZE)
    classifier: Literal["softmax", "ncm", "slda"] = Field(
        "softmax", description="a head that is trained; or the nearest class mean or discriminant analysis of features"
    )
    shrinkage: Annotated[Fraction, Field(gt=0)] = Field(
        1e-4, description="of slda: epsilon, the identity's share of the covariance that is inverted"
    )


class FeatureExtraction(Strategy):
    """Learn new classes from features that do not change."""

    Config = FeatureExtractionConfig
    idle_rows = "always"
    paper: ClassVar[str] = "Li and Hoiem 2016, Learning without forgetting (arXiv 1606.09282), baseline"

    config: FeatureExtractionConfig

    def __init__(self, config: FeatureExtractionConfig, context: Context) -> None:
        scenario = context.scenario
        if scenario.active_logits == "auto" and scenario.policy == "seen":
            context = replace(context, scenario=replace(scenario, active_logits="current"))
        super().__init__(config, context)
        if config.classifier != "softmax" and not self.network.head.affine:
            rule = f"{config.classifier} is a linear head in closed form; use linear, or classifier: softmax"
            raise SpecError([Problem("model.classifier", rule, "cosine")])
        features, covariance = self.network.head.features, config.classifier == "slda"
        self.statistics = ClassStatistics(features, covariance, context.device)
        self._trunk = LowerPart(self.network.backbone, config.freeze)
        self._features: Rows | None = None

    # -- growth and optimisation -------------------------------------------------------------------------------

    def _trains_head(self, task: int) -> bool:
        return self.config.classifier == "softmax" or not self._trunk.frozen(task)

    def grow(self, task: int) -> None:
        super().grow(task)
        self._trunk.begin(task)
        if self.config.classifier != "softmax":
            self.statistics.grow(self.network.head.outputs)

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        if not self._trunk.frozen(task):
            return super().trainable(task)
        head = self.network.head.parameters() if self._trains_head(task) else ()
        return self._trunk.trainable(task, [{"params": list(head)}])

    def train(self, mode: bool) -> None:
        super().train(mode)
        self._trunk.hold_statistics(self.task)

    # -- the task ----------------------------------------------------------------------------------------------

    def begin_task(self, task: int, data: TaskData) -> None:
        if self._trunk.frozen(task) and self._trains_head(task) and self._is_seen_again(data):
            self._features = self._extract(data)

    def _is_seen_again(self, data: TaskData) -> bool:
        """Whether the same row comes more than once."""
        length, rows = self.length(), len(data)
        if isinstance(length, Updates):
            passes = length.count * self.context.training.batch_size / rows
        else:
            passes = length.count if isinstance(length, Epochs) else length.examples / rows
        return passes > 1 and not self.context.augments

    def _extract(self, data: TaskData) -> Rows:
        """Features of all rows of the task, in stream order."""
        return self._trunk.activations(data, FEATURE_BATCH)

    def _of(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` -> features ``[batch, features]``, without gradient."""
        return self._trunk.of(x)

    def phases(self, task: int) -> Sequence[Phase]:
        if not self._trains_head(task):
            return ()
        if self._features is not None:
            return (Phase("train", self.length(), self._features),)
        return super().phases(task)

    def end_task(self, task: int, data: TaskData) -> None:
        self._features = None
        if self.config.classifier == "softmax":
            return
        for batch in data.batches(FEATURE_BATCH):
            self.statistics.add(self._of(batch.x), batch.y)
        self._write_head()

    @torch.no_grad()
    def _write_head(self) -> None:
        """Both closed forms are linear, so they stand where a trained head would."""
        statistics, head = self.statistics, self.network.head
        if self.config.classifier == "ncm":
            weight, bias = statistics.nearest_mean()
        else:
            weight, bias = statistics.discriminant(self.config.shrinkage)
        assert head.bias is not None
        head.weight.copy_(weight)
        head.bias.copy_(bias)

    # -- the update --------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        network = self.network
        if self._features is not None:
            logits = network.head(batch.x)
        elif self._trunk.frozen(self.task):
            logits = network.head(self._of(batch.x))
        else:
            logits = network(batch.x)
        return {"task": self.cross_entropy(logits, batch)}

    # -- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        if self.config.classifier == "softmax":
            return super().state_dict()
        return {**super().state_dict(), "statistics": self.statistics.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.config.classifier != "softmax":
            self.statistics.load_state_dict(state["statistics"])
