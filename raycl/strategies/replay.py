"""Experience replay: every update learns new examples together with examples drawn from a memory.

Chaudhry et al., "On tiny episodic memories in continual learning", 2019 (arXiv 1902.10486); reservoir sampling after
Vitter 1985. The replayed rows of an update are drawn before its new rows are offered to the memory. The sweep's
``memory`` block says how large the memory is, which rows stay, and how the two losses are combined (``combine``): the
authors, and the mammoth library, take one mean over new and replayed rows together (``union``, the default) in one
forward pass; ``sum`` of the two means has twice the gradient under plain SGD.

Where no row is replayed the mean loss of the new ones stands alone, whatever the weights.

Departures:
- With several epochs a row is offered once (``insert: first_epoch``); ``every_epoch`` offers it anew in each, as some
  libraries do.
- ``exclude_current`` replays no row of the current task, as MIR does. Where boundaries are hidden it replays no row of
  the new rows' classes; where tasks also share their output units, nothing tells old rows apart, and all are replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, get_args

from pydantic import Field
from torch import Tensor

from raycl.learning.passes import FORWARD_HELP, ForwardPasses, logits_of_parts
from raycl.spec.acting import KEPT
from raycl.spec.needs import Idle
from raycl.spec.options import Later, ScenarioName
from raycl.spec.revisions import LATE_ROWS, Change
from raycl.spec.setting import Setting
from raycl.strategies.base import Context, Losses, Position, Strategy, StrategyConfig, TaskData
from raycl.streams.task import Batch

LONE_ROWS = Change("lone rows", 2, lambda at: at.memory.combine == "mean")
"""New rows without any replayed ones count whole."""


class ReplayConfig(StrategyConfig):
    """Experience replay is set by the sweep's ``memory`` block, but for what may be drawn."""

    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(
            ("exclude_current",),
            "where tasks share output units and stream.boundaries is 'hidden', nothing tells old rows apart",
            lambda at: at.hidden and at.shared_units,
        ),
    )

    exclude_current: bool = Field(False, description="replay no rows of the current task, or of the batch's classes")
    forward: Annotated[ForwardPasses, Later()] = Field("joint", description=FORWARD_HELP)


def first_drawn(at: Setting) -> int:
    """The first task in which rows are drawn: where those of the current task are left out, the second."""
    return 2 if at.options.exclude_current and not at.hidden else 1


class Replay(Strategy):
    """New rows plus as many drawn ones in every update."""

    Config = ReplayConfig
    acts_from = dict.fromkeys(("forward", "memory.batch_size", "memory.combine", *KEPT), first_drawn)
    stability = ()
    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(("memory.mix",), "replayed rows are drawn beside each batch; set batch_size and combine"),
    )
    boundary_free: ClassVar[bool] = True
    changes: ClassVar[tuple[Change, ...]] = (LATE_ROWS, LONE_ROWS)
    uses_memory: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        scenario: {"memory.combine": "union"} for scenario in get_args(ScenarioName)
    }
    paper: ClassVar[str] = "Chaudhry et al. 2019, On tiny episodic memories in continual learning (arXiv 1902.10486)"

    config: ReplayConfig

    def __init__(self, config: ReplayConfig, context: Context) -> None:
        super().__init__(config, context)
        self.replay_size = context.memory_config.batch_size or context.training.batch_size
        self._exclude: bool = config.exclude_current
        self._excluded_task: int | None = None
        self._new = 0  # rows of the update that are not replayed; they come first

    def begin_task(self, task: int, data: TaskData) -> None:
        """Called only where boundaries are given."""
        if self._exclude:
            self._excluded_task = task

    @property
    def draw_size(self) -> int:
        """Rows drawn for every full update."""
        return self.replay_size

    def draw(self, batch: Batch, at: Position) -> Batch:
        memory = self.memory
        replayed = at.part_of(self.select(batch)) if len(memory) else None
        self.offer({"image": batch.image, "label": batch.y, "task": batch.task}, at)
        if not at.last and not self._without_labels:
            memory.request(self.draw_size, self._excluded_task)
        self._new = len(batch)
        return batch if replayed is None or not len(replayed) else Batch.cat([batch, replayed])

    def select(self, batch: Batch) -> Batch:
        """The rows to replay beside the new ones; may be none."""
        labels = batch.y if self._without_labels else None
        return self.replayed(self.memory.sample(self.draw_size, self._excluded_task, labels))

    @property
    def _without_labels(self) -> bool:
        """Whether the classes of the new rows say what is not replayed."""
        return self._exclude and self._excluded_task is None and not self.context.scenario.shared

    def logits(self, batch: Batch) -> Tensor:
        """Logits ``[batch, outputs]`` of the training softmax."""
        return logits_of_parts(self.network, batch.x, self._sizes(batch), self.config.forward)

    def _sizes(self, batch: Batch) -> tuple[int, ...]:
        """New rows, and replayed ones where there are any."""
        replayed = len(batch) - self._new
        return (self._new, replayed) if replayed else (self._new,)

    def loss(self, batch: Batch) -> Losses:
        logits, sizes = self.logits(batch), self._sizes(batch)
        if len(sizes) == 1:
            return {"task": self.cross_entropy(logits, batch)}
        new_weight, replay_weight = self._weights(*sizes)
        new, replayed = self.cross_entropy(logits, batch, reduction="none").split(sizes)
        return {"task": _weighted(new.mean(), new_weight), "replay": _weighted(replayed.mean(), replay_weight)}

    def _weights(self, new: int, replayed: int) -> tuple[float, float]:
        """Weights of the mean loss of so many new and replayed rows."""
        combine = self.context.memory_config.combine
        if combine == "task_share":
            return 1 / (self.task + 1), 1 - 1 / (self.task + 1)
        if combine == "union":
            return new / (new + replayed), replayed / (new + replayed)
        return (0.5, 0.5) if combine == "mean" else (1.0, 1.0)


def _weighted(value: Tensor, weight: float) -> Tensor:
    """The weighted value; a factor of one is no operation."""
    return value if weight == 1 else weight * value
