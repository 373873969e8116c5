"""Generative negative replay: generated rows of old classes tell new classes what they are not.

Graffieti, Maltoni, Pellegrini and Lomonaco, "Generative negative replay for continual learning", Neural Networks 2023
(arXiv 2204.05842). A generator draws activations of old classes at ``layer``, below which the trunk is frozen after
the first task or from the start. Rows of new classes learn from new and from generated rows; the rows of old classes
in the head are those of AR1*'s consolidated head (:mod:`raycl.learning.consolidated_head`), to which generated rows
are not good enough to add anything (:mod:`raycl.learning.negative_replay`). The mean cross-entropies of new and of
generated rows are added, weighted by the numbers of new and of old classes. ``mode: positive`` replays as usual:
generated rows teach all classes and what lies between cut and head, and old classes count as present in the
consolidation.

``rivals`` says how rows of old classes compete: ``fixed``, as they are consolidated, so that new rows have to win
against what they will meet at test; or ``learning``: new rows push them down, which is undone by the consolidation.

After each task a conditional variational autoencoder (:mod:`raycl.models.conditional_vae`) learns the activations of
its classes and what it drew of old classes before, weighted by the number of classes, as in deep generative replay.

Departures: there is no public code; which gradients are cut is our reading of the paper, and ``rivals: fixed`` our
choice, as are the weights, and that rows learned beside old ones are not shifted by their mean: without either, new
classes win against old ones. The generator is a fully connected autoencoder, which also keeps mean and deviation of
each class's activations. Batch norm, not batch renormalisation.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raycl.learning.negative_replay import balanced, fixed_rows, learned_units, require_rivals, with_negatives
from raycl.learning.ownership import FrozenEntries
from raycl.models.conditional_vae import ConditionalVAE
from raycl.spec.options import CountFromZero, Fraction, Positive, Width, Widths
from raycl.strategies.base import Context, Losses, Phase, Position, Source, TaskData, Trainable
from raycl.strategies.consolidated.base import Consolidated, ConsolidatedConfig, groups_above
from raycl.strategies.lower_part import no_pixels, settled_from
from raycl.streams.task import Batch


class GenerativeNegativeReplayConfig(ConsolidatedConfig):
    """Where rows are generated, what learns from them, and the generator."""

    search_space: ClassVar[dict[str, Any]] = {
        "head_learning_rate": {"loguniform": [0.3, 30]},
        "replay_batch_size": {"choice": [16, 32, 64, 128]},
        "latent_dim": {"choice": [8, 16, 32, 64]},
    }

    mode: Literal["negative", "positive"] = Field("negative", description="what learns from generated rows")
    rivals: Literal["fixed", "learning"] = Field("fixed", description="rows of old classes while others learn")
    layer: str | None = Field(
        None, description="the backbone's module whose output is generated, by name; default: the features"
    )
    upper_learning_rate: Fraction = Field(
        1.0, description="factor on the learning rate between the cut and the head, once the lower part has settled"
    )
    replay_batch_size: CountFromZero | None = Field(
        None, description="generated rows per update; 0: none; default: training's batch_size"
    )
    replay_share: Literal["classes"] | Fraction = Field(
        "classes", description="weight of generated rows in the loss; classes: share of old classes among all seen"
    )
    latent_dim: Width = Field(32, description="length of the latent vectors from which activations are drawn")
    hidden: Widths = Field(
        (256,), min_length=1, description="units per layer of the generator's encoder; the decoder mirrors them"
    )
    generator_learning_rate: Positive | None = Field(None, description="default: training's learning_rate")
    generator_length: Positive = Field(1.0, description="of the generator's training, as a multiple of training's")


class GenerativeNegativeReplay(Consolidated):
    """Generate old activations, and learn what new classes are not."""

    Config = GenerativeNegativeReplayConfig
    acts_from = dict.fromkeys(("rivals", "replay_batch_size", "replay_share"), 2) | dict.fromkeys(
        ("upper_learning_rate", "head_learning_rate"), settled_from
    )
    between_tasks = ("replay_batch_size", "replay_share", "upper_learning_rate", "head_learning_rate")
    one_pass: ClassVar[bool] = False
    scenarios: ClassVar[frozenset[str]] = frozenset({"class"})
    idle_rows = "always"
    passes: ClassVar[tuple[str, ...]] = (*Consolidated.passes, "_generator_loss")
    paper: ClassVar[str] = "Graffieti et al. 2023, Generative negative replay (arXiv 2204.05842)"

    config: GenerativeNegativeReplayConfig

    def __init__(self, config: GenerativeNegativeReplayConfig, context: Context) -> None:
        require_rivals(context.scenario, "generative_negative_replay")
        super().__init__(config, context, layer=config.layer)
        start, self._random = context.generator.start_and_draws("generative_negative_replay")
        shape = self.lower.of(torch.zeros(1, *context.image_shape, device=context.device)).shape[1:]
        vae = ConditionalVAE(shape, config.hidden, config.latent_dim, start)
        self.generator = vae.to(context.device)
        self._data: TaskData | None = None
        self._before: ConditionalVAE | None = None  # the generator of the tasks before, while its successor learns
        self._old = torch.zeros(0, dtype=torch.int64)  # units of classes that earlier tasks had and this one lacks
        self._learning = torch.zeros(0, dtype=torch.bool)  # [units], those of the task's classes
        self._new = 0  # classes of the task
        self._rivals = FrozenEntries({}, {})  # old rows of the head, where they are fixed

    # -- growth and optimisation -------------------------------------------------------------------------------

    def grow(self, task: int) -> None:
        super().grow(task)
        self.generator.grow(self.network.head.outputs)

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        training, rate = self.context.training, self.config.generator_learning_rate
        own = training.model_copy(update={"learning_rate": rate}) if rate else None
        return {
            **super().trainable(task),
            "generator": replace(Trainable.of(self.generator.parameters()), training=own),
        }

    def _above(self) -> list[dict[str, Any]]:
        return groups_above(
            self.upper, self.network.head, self.config.upper_learning_rate, self.config.head_learning_rate
        )

    def train(self, mode: bool) -> None:
        super().train(mode)
        if not self.config.upper_learning_rate and self.lower.settled(self.task):
            self.upper.eval()  # frozen weights with moving statistics would not be frozen

    # -- the task ----------------------------------------------------------------------------------------------

    def learning_units(self, task: int) -> Sequence[range] | None:
        """Fixed rivals do not learn; otherwise generated rows reach the units of all classes."""
        if self._fixes_rivals:
            return [self.context.scenario.units(task)]
        return None if task and self._replay_size else super().learning_units(task)

    @property
    def _fixes_rivals(self) -> bool:
        return self.config.mode == "negative" and self.config.rivals == "fixed"

    def begin_task(self, task: int, data: TaskData) -> None:
        self._data = data
        counts, negative = data.counts(), self.config.mode == "negative"
        self._new = len(counts)
        self._learning = learned_units(self.network.head.outputs, counts, self.context.device)
        seen = self.head.past > 0  # [units]
        self._old = (seen & ~self._learning).nonzero().flatten().cpu()
        if not negative:
            counts |= self._generated_counts(len(data))
        self.head.begin(counts, keep_others=negative)
        if self._fixes_rivals:
            self._rivals = fixed_rows(self.network.head, self._learning)
        self._keep_latents(task, data)

    def _generated_counts(self, rows: int) -> dict[int, int]:
        """Generated rows of each old class beside so many new rows, where there are any."""
        if not self._replay_size:
            return {}
        drawn = self._replay_size * rows / self.context.training.batch_size
        each = drawn / max(1, len(self._old))
        return dict.fromkeys(self._old.tolist(), max(1, round(each)))

    @property
    def _replay_size(self) -> int:
        size = self.config.replay_batch_size
        return self.context.training.batch_size if size is None else size

    def phases(self, task: int) -> Sequence[Phase]:
        """The classifier learns with the generator of the tasks before, which then learns in its turn."""
        generate = Phase(
            "generate",
            self.length().times(self.config.generator_length),
            self._latents or Source.CURRENT,
            step=self._generator_step,
            start=self._begin_generator,
        )
        return (*super().phases(task), generate)

    def end_task(self, task: int, data: TaskData) -> None:
        super().end_task(task, data)
        self._rivals = FrozenEntries({}, {})
        self._before = self._data = None

    # -- the classifier ----------------------------------------------------------------------------------------

    def draw(self, batch: Batch, at: Position) -> Batch:
        """New and generated rows at the cut."""
        batch = super().draw(batch, at)
        if not len(self._old) or not self._replay_size:
            return batch
        x, y = self._generated(self.generator, self._replay_size)
        task = torch.zeros_like(y)  # no task's rows: replayed ones compete by their classes alone
        replayed = torch.ones_like(y, dtype=torch.bool)
        return Batch.cat([batch, at.part_of(Batch(no_pixels(len(y)), x, y, task, replayed))])

    @torch.no_grad()
    def _generated(self, generator: ConditionalVAE, count: int) -> tuple[Tensor, Tensor]:
        """So many activations of old classes ``[count, *]``, every class alike, and their units ``[count]``."""
        y = self._old[torch.randint(len(self._old), (count,), generator=self._random)]
        y = y.to(self.context.device, non_blocking=True)
        return generator.sample(y, self._noise(count)), y

    def _noise(self, rows: int) -> Tensor:
        noise = torch.randn(rows, self.config.latent_dim, generator=self._random)
        return noise.to(self.context.device, non_blocking=True)

    def loss(self, batch: Batch) -> Losses:
        head, features = self.network.head, self.upper(batch.x)
        if self.config.mode == "positive":
            logits = head(features)
        else:
            logits = with_negatives(head, features, batch.replayed, self._learning, self._fixes_rivals)
        losses = self.cross_entropy(logits, batch, reduction="none")  # [batch]
        return {"task": balanced(losses, batch.replayed, self._share)}

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        self._rivals.zero_gradients()

    def after_update(self, batch: Batch, at: Position) -> None:
        self._rivals.restore()

    @property
    def _share(self) -> float:
        """Weight of generated rows in the classifier's loss."""
        share = self.config.replay_share
        return self._old_share if share == "classes" else share

    @property
    def _old_share(self) -> float:
        """The share of old classes among all seen."""
        return len(self._old) / (len(self._old) + self._new)

    # -- the generator -----------------------------------------------------------------------------------------

    def _begin_generator(self) -> None:
        assert self._data is not None, "begin_task comes first"
        latents = self._latents or self.lower.activations(self._data)
        self.generator.observe(latents.x, latents.y)
        self._before = copy.deepcopy(self.generator).requires_grad_(False) if len(self._old) else None

    def _generator_step(self, batch: Batch, at: Position) -> Losses:
        """One update from new activations and as many that the generator of the tasks before draws."""
        loss = self._generator_loss(batch)
        optimizers = self.context.optimizers
        optimizers.zero_grad()
        loss.backward()
        optimizers.step("generator")
        return {"generator": loss.detach()}

    def _generator_loss(self, batch: Batch) -> Tensor:
        x = batch.x if self._latents is not None else self.lower.of(batch.x)
        loss = self.generator.loss(x, batch.y, self._noise(len(x))).mean()
        if self._before is not None:
            drawn, y = self._generated(self._before, len(x))
            old = self.generator.loss(drawn, y, self._noise(len(x))).mean()
            loss = loss.lerp(old, self._old_share)  # (1 - share) * new + share * old
        return loss

    # -- size and state ----------------------------------------------------------------------------------------

    def parameter_count(self) -> int:
        return super().parameter_count() + sum(p.numel() for p in self.generator.parameters())

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "generator": self.generator.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.load_state_dict(state["generator"])
