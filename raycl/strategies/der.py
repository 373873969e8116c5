"""Dark experience replay: replayed rows keep the logits they had when they were stored; DER++ keeps labels too.

Buzzega et al., "Dark experience for general continual learning: a strong, simple baseline", NeurIPS 2020 (arXiv
2004.07211), equations 5 and 6, with z the stored logits of a row and two independent draws from one reservoir:

    DER:   L = CE(new rows) + alpha * MSE(f(x'), z')
    DER++: L = CE(new rows) + alpha * MSE(f(x'), z') + beta * CE(f(x''), y'')

Stored are un-augmented rows and the logits of the forward pass of the update that stored them, before its step, never
refreshed. The squared error is a mean over rows and units, so alpha's scale depends on the number of units.

The head is full from the start, as in the paper: class-incrementally ``active_logits: auto`` is ``all`` here. Stored
logits then say of later classes that they are unlikely, which is most of what DER gains: with 200 rows of Split MNIST
DER keeps 73 % so, and 20 % on a head that grows (``seen``), where the squared error runs over the units that existed
when a row was stored; DER++ 83 % and 68 %.

A row is stored in every epoch that sees it, as in the authors' code (``memory.insert: auto`` is ``every_epoch`` here).
Stored in the first one alone, logits are those of a network that hardly knows the task: four epochs of Split digits
keep 21 % so and 47 % otherwise (DER++ 61 % and 76 %).

New rows and each draw go through the network in passes of their own, as in the authors' code (``forward: separate``).
With batch normalisation the stored logits are then those of new rows beside new rows only. On a CPU an update of DER++
takes 1.1 times as long as in one joint pass with batches of 128, and 1.5 times (MLP) or 1.2 times (CNN) with batches of
10.

Departures:
- Raw logits are compared, whatever units the training softmax leaves out.
- ``memory.combine`` is not read: alpha and beta are the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raycl.learning.passes import FORWARD_HELP, ForwardPasses, logits_of_parts
from raycl.spec.needs import Idle
from raycl.spec.options import Later, NonNegative
from raycl.spec.protocols import Decay
from raycl.spec.revisions import LATE_ROWS, Change
from raycl.strategies.base import Context, Losses, Position, Strategy, StrategyConfig
from raycl.streams.task import Batch


class DERConfig(StrategyConfig):
    """Weight of the stored logits."""

    search_space: ClassVar[dict[str, Any]] = {"alpha": {"loguniform": [0.05, 1.0]}}

    alpha: NonNegative = Field(0.5, description="weight of the squared error to stored logits")
    forward: Annotated[ForwardPasses, Later()] = Field("separate", description=FORWARD_HELP)


class DERPPConfig(DERConfig):
    """Weights of the stored logits and of the stored labels."""

    search_space: ClassVar[dict[str, Any]] = {**DERConfig.search_space, "beta": {"uniform": [0.1, 2.0]}}

    beta: NonNegative = Field(0.5, description="weight of the cross-entropy of a second draw")


class DER(Strategy):
    """Replay stored logits."""

    Config = DERConfig
    between_tasks: ClassVar[tuple[str, ...]] = ("alpha",)
    stability: ClassVar[tuple[Decay, ...] | None] = (Decay(option="alpha"),)
    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(("memory.combine", "memory.mix"), "alpha and beta weigh the rows that are drawn beside each batch"),
    )
    revision: ClassVar[int] = 2  # each draw has a forward pass of its own
    changes: ClassVar[tuple[Change, ...]] = (LATE_ROWS,)
    boundary_free: ClassVar[bool] = True
    uses_memory: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "task": {"memory.insert": "every_epoch"},
        "domain": {"memory.insert": "every_epoch"},
        "class": {"memory.insert": "every_epoch", "training.active_logits": "all"},
    }
    naive_when: ClassVar[Mapping[str, Any] | None] = {"alpha": 0.0}
    paper: ClassVar[str] = "Buzzega et al. 2020, Dark experience for general continual learning (arXiv 2004.07211)"

    config: DERConfig

    def __init__(self, config: DERConfig, context: Context) -> None:
        super().__init__(config, context)
        self.replay_size = context.memory_config.batch_size or context.training.batch_size
        self._new: Batch | None = None
        self._at: Position | None = None
        scenario = context.scenario
        self._complete = scenario.outputs(0) == scenario.num_outputs  # no unit comes after a row was stored
        self._draws: dict[str, int] = {}  # rows of each draw; they stand behind the new ones, in this order

    def weights(self) -> dict[str, float]:
        """Weight of each replayed part; a part without weight is not drawn."""
        return {"logits": self.config.alpha}

    def draw(self, batch: Batch, at: Position) -> Batch:
        self._new, self._at, self._draws = batch, at, {}
        batches = [batch]
        for name in self._drawn() if len(self.memory) else ():
            rows = at.part_of(self.replayed(self.memory.sample(self.replay_size)))
            if not len(rows):
                continue
            batches.append(rows)
            self._draws[name] = len(batches[-1])
        return Batch.cat(batches)

    def learning_units(self, task: int) -> Sequence[range] | None:
        """Stored logits are those of all units."""
        return None if self.weights()["logits"] else super().learning_units(task)

    def rehearsed(self) -> set[int]:
        return super().rehearsed() if self._drawn() else set()

    def _drawn(self) -> list[str]:
        return [name for name, weight in self.weights().items() if weight]

    def loss(self, batch: Batch) -> Losses:
        sizes = (len(batch) - sum(self._draws.values()), *self._draws.values())
        logits = logits_of_parts(self.network, batch.x, sizes, self.config.forward)
        self._store(logits)
        if not self._draws:
            return {"task": self.cross_entropy(logits, batch)}
        new, *replayed = self.cross_entropy(logits, batch, reduction="none").split(sizes)
        losses, weights = {"task": new.mean()}, self.weights()
        for part, rows in enumerate(self._draws):
            if rows == "labels":
                error = replayed[part].mean()
            else:
                stored = batch.columns["logits"].split(sizes)[part + 1]
                error = _squared_error(logits.split(sizes)[part + 1], stored, self._complete)
            losses[rows] = weights[rows] * error
        return losses

    def _store(self, logits: Tensor) -> None:
        """Offer the new rows with the logits just computed; request the next draws, which hide behind the backward."""
        new, at = self._new, self._at
        assert new is not None
        assert at is not None
        own = {"image": new.image, "label": new.y, "task": new.task, "logits": logits[: len(new)].detach()}
        self.offer(own, at)
        for _ in () if at.last else self._drawn():
            self.memory.request(self.replay_size)


class DERPP(DER):
    """Replay stored logits, and stored labels of a second draw."""

    Config = DERPPConfig
    between_tasks: ClassVar[tuple[str, ...]] = ("alpha", "beta")
    stability: ClassVar[tuple[Decay, ...] | None] = (Decay(option="alpha"), Decay(option="beta"))
    naive_when: ClassVar[Mapping[str, Any] | None] = {"alpha": 0.0, "beta": 0.0}

    config: DERPPConfig

    def weights(self) -> dict[str, float]:
        return {"logits": self.config.alpha, "labels": self.config.beta}


def _squared_error(logits: Tensor, stored: Tensor, complete: bool) -> Tensor:
    """Mean squared error ``[]`` over the entries of ``stored`` ``[batch, units]`` that are there, not NaN.

    Args:
        complete: all of them are; they need not be looked for.
    """
    if complete:
        return (logits - stored).square().mean()
    logits = logits[:, : stored.shape[1]]
    there = ~stored.isnan()
    error = logits - torch.where(there, stored, logits.detach())
    return error.square().sum() / there.sum()
