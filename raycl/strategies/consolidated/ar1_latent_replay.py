"""AR1* with latent replay: a consolidated head over what learns from new images and from stored activations.

Pellegrini, Graffieti, Lomonaco and Maltoni, "Latent replay for real-time continual learning", IROS 2020 (arXiv
1912.01100): the memory, the cut and the mixture of an update are those of :mod:`raycl.strategies.latent_replay`, and
the head is that of CWR* (:mod:`raycl.learning.consolidated_head`), for which rows in the memory count as examples of
the task: their classes begin at what is known, and are consolidated with it. ``penalty: 0``, the default, is the
paper's AR1*free; otherwise what learns is held as in AR1, norm layers apart.

``mode: negative`` uses the stored activations as negatives only (:mod:`raycl.learning.negative_replay`): the upper
bound of generative negative replay. Their classes do not count as present; their rows of the head compete as they are
consolidated, and nothing moves them. New and stored rows weigh as the numbers of their classes.

Departures: those of :mod:`raycl.strategies.latent_replay` but for the head, and of
:mod:`raycl.strategies.consolidated.cwr`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from raycl.errors import MethodError
from raycl.learning.consolidated_head import VARIANT_HELP, ConsolidatedHead, Variant
from raycl.learning.negative_replay import balanced, fixed_rows, learned_units, require_rivals, with_negatives
from raycl.learning.ownership import FrozenEntries
from raycl.learning.path_penalty import PULL, PathPenalty, PathPenaltyOptions, without_norms
from raycl.spec.options import Fraction, Positive
from raycl.strategies.base import Context, Losses, Position, TaskData
from raycl.strategies.consolidated.base import groups_above
from raycl.strategies.latent_replay import LatentReplay, LatentReplayConfig
from raycl.strategies.lower_part import settled_from
from raycl.streams.task import Batch


class AR1LatentReplayConfig(PathPenaltyOptions, LatentReplayConfig):
    """Latent replay's options, and how parts learn once the lower one has settled."""

    search_space: ClassVar[dict[str, Any]] = {
        "lower_learning_rate": {"choice": [0.0, 0.01, 0.1]},
        "upper_learning_rate": {"choice": [0.1, 0.3, 1.0]},
        "head_learning_rate": {"choice": [1.0, 10.0]},
    }

    variant: Variant = Field("cwr_star", description=f"of the consolidated head: {VARIANT_HELP}")
    mode: Literal["positive", "negative"] = Field("positive", description="negative: only new classes learn from them")
    upper_learning_rate: Fraction = Field(
        1.0, description="factor on the learning rate between the cut and the head, once the lower part has settled"
    )
    head_learning_rate: Positive = Field(1.0, description="factor on the learning rate of the head from then on")


class AR1LatentReplay(LatentReplay):
    """Consolidate the head, replay activations."""

    Config = AR1LatentReplayConfig
    acts_from = {
        **LatentReplay.acts_from,
        **dict.fromkeys(PULL, 2),
        **dict.fromkeys(("upper_learning_rate", "head_learning_rate"), settled_from),
    }
    between_tasks = (*LatentReplay.between_tasks, *PULL, "upper_learning_rate", "head_learning_rate")
    idle_rows = "always"
    paper: ClassVar[str] = "Pellegrini et al. 2020, AR1* with latent replay (arXiv 1912.01100)"

    config: AR1LatentReplayConfig

    def __init__(self, config: AR1LatentReplayConfig, context: Context) -> None:
        if config.mode == "negative":
            require_rivals(context.scenario, "ar1_latent_replay")
        super().__init__(config, context)
        if config.penalty and not config.lower_learning_rate and not list(self.upper.parameters()):
            raise MethodError(
                "ar1_latent_replay: nothing learns between layer and head that a penalty could hold (got penalty "
                f"{config.penalty:g}); set an earlier layer, a lower_learning_rate, or penalty: 0"
            )
        self.head = ConsolidatedHead(self.network.head, config.variant)
        self.pull = PathPenalty(config, context.optimizers)
        self._learning = torch.zeros(0, dtype=torch.bool)  # units of the task, where replays are negatives
        self._old_share = 0.0  # of old classes among all
        self._rivals = FrozenEntries({}, {})

    # -- growth and optimisation -------------------------------------------------------------------------------

    def grow(self, task: int) -> None:
        super().grow(task)
        self.head.grow()

    def _above(self) -> list[dict[str, Any]]:
        return groups_above(
            self.upper, self.network.head, self.config.upper_learning_rate, self.config.head_learning_rate
        )

    def train(self, mode: bool) -> None:
        super().train(mode)
        if not self.config.upper_learning_rate and self._below.settled(self.task):
            self.upper.eval()  # frozen weights with moving statistics would not be frozen

    # -- the task ----------------------------------------------------------------------------------------------

    def learning_units(self, task: int) -> Sequence[range] | None:
        """Negatives teach old classes nothing."""
        negative = self.config.mode == "negative"
        return [self.context.scenario.units(task)] if negative else super().learning_units(task)

    def begin_task(self, task: int, data: TaskData) -> None:
        super().begin_task(task, data)
        counts, negative = Counter(data.counts()), self.config.mode == "negative"
        if negative:
            self._learning = learned_units(self.network.head.outputs, counts, self.context.device)
            self._old_share = 1 - len(counts) / len(counts.keys() | set(self.memory.labels.tolist()))
        else:
            counts.update(self.memory.labels.tolist())
        self.head.begin(counts, keep_others=negative)
        if negative:
            self._rivals = fixed_rows(self.network.head, self._learning)
        self.pull.begin(without_norms(self.network.backbone if self.config.lower_learning_rate else self.upper))

    def end_task(self, task: int, data: TaskData) -> None:
        super().end_task(task, data)
        self._rivals = FrozenEntries({}, {})
        self.head.consolidate()
        self.pull.end()

    # -- the update --------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        if self.config.mode == "positive":
            return super().loss(batch)
        features = self.upper(batch.x)
        logits = with_negatives(self.network.head, features, batch.replayed, self._learning, fixed=True)
        losses = self.cross_entropy(logits, batch, reduction="none")
        return {"task": balanced(losses, batch.replayed, self._old_share)}

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        self.pull.before_update()
        self._rivals.zero_gradients()

    def remedy(self) -> str:
        return self.pull.remedy(super().remedy())

    def after_update(self, batch: Batch, at: Position) -> None:
        self.pull.after_update()
        self._rivals.restore()

    # -- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "head": self.head.state_dict(), "pull": self.pull.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.head.load_state_dict(state["head"])
        self.pull.load_state_dict(state["pull"], self.context.device)
