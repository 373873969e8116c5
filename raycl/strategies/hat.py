"""HAT: every task learns which hidden units it needs, and weights between units of earlier tasks hardly move.

Serrà, Surís, Miron and Karatzoglou, "Overcoming catastrophic forgetting with hard attention to the task", ICML 2018
(arXiv 1801.01423). Task t has an embedding e for every hidden unit (every channel of a convolution), whose gate
a = sigmoid(s e) multiplies the unit's output. In each epoch s rises with the batches from 1 / s_max to s_max, which is
also its value at test. With a^{<t}, the largest gates of all earlier tasks at s_max, weights and embedding minimise

    L_t + penalty * R,   R = sum a (1 - a^{<t}) / sum (1 - a^{<t})

while the update of the weight from unit j to unit i is scaled by 1 - min(a_i^{<t}, a_j^{<t}), that of a bias by
1 - a_i^{<t}. The embedding's gradient is compensated for the annealing, and e is kept within [-6, 6].

``hard: true`` replaces the gates by a > 1/2 once a task has been learned: old answers then stay to the last bit,
whatever the optimiser. With soft gates, units with e near 0 let some weights of old tasks move a little.

``compensation: float32`` is the arithmetic of the authors' code, in which the gradient of an open gate is lost as soon
as float32 rounds the gate to 1: open gates get a third of the gradient that closed ones get
(:func:`raycl.learning.attention.gate`). The published penalty of .75 and s_max of 400 were found with it. ``exact``
keeps it, so that the same penalty closes more gates: a third of it acts about as the published one.

Narrow and deep networks may learn nothing at all: every layer's gates let half of the signal through, torch's default
start halves it more than once as well, and while the loss still stands at log(classes) the penalty closes the gates,
first of all those of the narrow layers. A CNN of 8, 16 and 32 channels (five tasks of two digits, SGD at .05, 30 epochs
of 18 batches) stays near chance with either compensation (54 and 50 %, three seeds), and so it does in the authors' own
loop (50 %). It is not the arithmetic: with ``norm: batch`` it has 99 %, with Adam at 1e-3 95 %, from He's start 99 %;
with a penalty of 0 it needs 100 epochs (58 % after 30, 98 % then). A task that has closed a layer is told in the
results, and so is a layer that is used up.

The paper's optimiser is ``training: {optimizer: sgd, learning_rate: 0.05}``, without momentum or weight decay.

Departures:
- The update is scaled, not the gradient: the same for the paper's optimiser, and the one way in which momentum, Adam
  and weight decay cannot get around the mask. Weight decay leaves the embedding alone; gradients are clipped, where
  ``training.gradient_clip`` says so, after masking and compensation, those of weights and embedding separately.
- The learning rate falls geometrically within each task, to ``final_learning_rate``; the paper divides it by 3 whenever
  the loss on validation data has not fallen for five epochs, and keeps the weights of the best one. Models have no
  dropout.
- Epochs of fewer than five updates share a rise of s with the next ones: with one batch an epoch the paper's formula
  has no value, and with two s jumps between its ends.
- With ``training.iterations`` or a budget, s rises as many times as whole passes over the task's rows fit into them, at
  least once.
- Batch norm (the paper's networks have none) is kept per task, affine parameters and running statistics; a task
  begins with those of the new network.
- Only the task's own rows of the head learn, even under weight decay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.learning.attention import Attention, Compensation, ScaledUpdates, annealed, gate
from raycl.learning.own_units import OWN_HEADS, require_own_heads
from raycl.learning.ownership import FrozenEntries, other_rows
from raycl.spec.needs import Need
from raycl.spec.options import LARGEST, Later, NonNegative
from raycl.strategies.base import (
    Context,
    Epochs,
    Losses,
    Phase,
    Position,
    Share,
    Strategy,
    StrategyConfig,
    TaskData,
    Trainable,
    nested_bytes,
)
from raycl.streams.task import Batch

BOUND = 6.0
"""Embeddings stay within plus and minus this, so that their gradient does not vanish."""


class HATConfig(StrategyConfig):
    """How sparse and how sharp the gates are."""

    search_space: ClassVar[dict[str, Any]] = {
        "penalty": {"loguniform": [0.01, 4]},
        "s_max": {"loguniform": [25, 800]},
    }

    penalty: NonNegative = Field(
        0.75,
        description="c, on the share of free units that a task takes; .75 is published, for compensation float32: with "
        "exact it acts about three times as strongly",
    )
    compensation: Annotated[Compensation, Later()] = Field(  # what the default changed is told by the revision
        "float32",
        description="of the gates' gradient for the annealing: as in the authors' code, where float32 loses that of "
        "open gates (s e above 16.6), or exact",
    )
    s_max: Annotated[float, Field(ge=1, le=LARGEST)] = Field(
        400.0, description="sharpness of gates at test and at an epoch's end"
    )
    hard: bool = Field(False, description="gates of 0 and 1 once a task is learned: nothing at all is forgotten")
    final_learning_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="factor on the learning rate at the end of a task; 1: constant"
    )


class HAT(Strategy):
    """Hard attention to the task."""

    Config = HATConfig
    between_tasks = ("penalty", "compensation", "final_learning_rate")
    diagnosable: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (OWN_HEADS,)
    scenarios: ClassVar[frozenset[str]] = frozenset({"task"})
    zero_shot: ClassVar[bool] = False
    revision: ClassVar[int] = 2
    """2: the gradient of gates is by default that of the authors' code in float32; before, it was exact."""
    idle_rows = "always"
    paper: ClassVar[str] = "Serrà et al. 2018, Hard attention to the task (arXiv 1801.01423)"

    config: HATConfig

    def __init__(self, config: HATConfig, context: Context) -> None:
        super().__init__(config, context)
        require_own_heads(context.scenario, "hat")
        self.attention = Attention(self.network.backbone)
        self.embedding = nn.Parameter(torch.empty(0))
        self.gates: list[Tensor] = []
        """Of each task learned, ``[units]``: float, or bool where they are hard."""
        self.norms: list[dict[str, Tensor]] = []
        """Parameters and buffers of batch norm as each task left them, by names in the backbone."""
        self._new_norms = {name: value.clone() for name, value in self._norms().items()}
        self._passes = 1
        self._sharpness = config.s_max
        self._price = torch.empty(0)
        self._idle = FrozenEntries({}, {})
        self._scaled = ScaledUpdates({}, {})

    # -- growth and optimisation -------------------------------------------------------------------------------

    def grow(self, task: int) -> None:
        super().grow(task)
        drawn = torch.randn(self.attention.units, generator=self.context.generator.start("attention"))
        self.embedding = nn.Parameter(drawn.to(self.context.device))

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        """An embedding has an optimiser of its own: it takes over no moments from the one before."""
        embedding = Trainable([{"params": [self.embedding], "weight_decay": 0.0}])
        return {**super().trainable(task), f"embedding {task}": embedding}

    # -- the task ----------------------------------------------------------------------------------------------

    def learning_units(self, task: int) -> Sequence[range] | None:
        return [self.context.scenario.units(task)]

    def begin_task(self, task: int, data: TaskData) -> None:
        self._passes = self._whole_passes(len(data))
        self.network.backbone.load_state_dict(self._new_norms, strict=False)
        used = self.used()
        free = 1 - used
        self._price = self.config.penalty * free / free.sum().clamp(min=torch.finfo().tiny)
        self._idle = other_rows(self.network.head, self.context.scenario.units(task))
        self._scaled = ScaledUpdates(dict(self.network.backbone.named_parameters()), self.attention.shares(used))

    def _whole_passes(self, rows: int) -> int:
        length = self.length()
        if isinstance(length, Epochs):
            return length.count
        if isinstance(length, Share):
            return max(1, length.examples // rows)
        return max(1, length.count // max(1, rows // self.context.training.batch_size))

    def used(self) -> Tensor:
        """float ``[units]``: the largest gate of any task learned."""
        none = torch.zeros(self.attention.units, device=self.context.device)
        return torch.stack([none, *(own.to(none.dtype) for own in self.gates)]).amax(0)

    def phases(self, task: int) -> Sequence[Phase]:
        final = self.config.final_learning_rate
        return (Phase("train", self.length(), learning_rate=lambda at: final**at.fraction),)

    def end_task(self, task: int, data: TaskData) -> None:
        self.gates.append(self._gate(task))
        self.norms.append({name: value.clone() for name, value in self._norms().items()})

    def _gate(self, task: int) -> Tensor:
        """``[units]``: the gates with which a task is answered."""
        if task < len(self.gates):
            return self.gates[task]
        embedding = self.embedding.detach()
        return embedding > 0 if self.config.hard else torch.sigmoid(self.config.s_max * embedding)

    def _norms(self) -> dict[str, Tensor]:
        modules = self.network.backbone.named_modules()
        norms = {name: module for name, module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)}
        return {f"{name}.{key}": v for name, norm in norms.items() for key, v in norm.state_dict().items()}

    # -- the update --------------------------------------------------------------------------------------------

    def step(self, batch: Batch, at: Position) -> Losses:
        updates = round(at.update / at.fraction) if at.update else 1
        self._sharpness = annealed(at.update, updates, self._passes, self.config.s_max)
        return super().step(batch, at)

    def loss(self, batch: Batch) -> Losses:
        gates = gate(self.embedding, self._sharpness, self.config.s_max, self.config.compensation)
        logits = self.network.head(self.attention.features(batch.x, gates, {}))
        return {"task": self.cross_entropy(logits, batch), "regulariser": gates @ self._price}

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        self._idle.zero_gradients()
        self._scaled.before_update()

    def after_update(self, batch: Batch, at: Position) -> None:
        self._scaled.after_update()
        self._idle.restore()
        self.embedding.data.clamp_(-BOUND, BOUND)

    # -- prediction and state ----------------------------------------------------------------------------------

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        """Logits ``[batch, outputs so far]``; minus infinity outside the task's units."""
        if task is None:
            raise MethodError("hat: needs the task id to predict; use scenario task")
        state = self.norms[task] if task < len(self.norms) else {}
        features = self.attention.features(x, self._gate(task).to(x.dtype), state)
        return self.network.head.alone(features, self.context.scenario.units(task))

    def measures(self) -> dict[str, float]:
        """``free_units``: the share of the units, by their gates, that no task uses."""
        return {"free_units": 1 - float(self.used().mean())}

    def warnings(self) -> tuple[str, ...]:
        """Layers that are used up while tasks are still to come, and tasks that opened no unit of a layer."""
        told = []
        full = [layer for layer, used in enumerate(self.attention.split(self.used()), 1) if bool((used > 0.5).all())]
        if full and self.task + 1 < self.context.num_tasks:
            told.append(
                f"no unit of layer {', '.join(map(str, full))} is free for the tasks to come, which can hardly change "
                f"it; raise penalty (got {self.config.penalty}), or give the layer more units"
            )
        for task, gates in enumerate(self.gates):
            shut = [layer for layer, own in enumerate(self.attention.split(gates), 1) if not bool((own > 0.5).any())]
            if shut:
                told.append(
                    f"task {task} has closed every gate of layer {', '.join(map(str, shut))}, through which nothing "
                    f"passes; lower penalty (got {self.config.penalty}), or take model.norm: batch or a wider layer"
                )
        return tuple(told)

    def parameter_count(self) -> int:
        return super().parameter_count() + self.attention.units * (self.task + 1)

    def state_bytes(self) -> int:
        """Hard gates are charged as packed bits; in memory and in checkpoints they are bytes."""
        bits = sum(own.numel() for own in self.gates if own.dtype == torch.bool)
        return nested_bytes(self.state_dict()) - bits + -(-bits // 8)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "gates": self.gates, "norms": self.norms}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        device = self.context.device
        self.gates = [own.to(device) for own in state["gates"]]
        self.norms = [{name: value.to(device) for name, value in own.items()} for own in state["norms"]]
