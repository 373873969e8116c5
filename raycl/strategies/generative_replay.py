"""Deep generative replay: a generator draws images of earlier tasks, and the previous solver labels them.

Shin, Lee, Kim and Kim, "Continual learning with deep generative replay", NeurIPS 2017 (arXiv 1705.08690), equation 1.
A scholar is a generator and a solver. Task t > 1 freezes the previous scholar, which makes new replays in every update:

    solver:    r * CE(S(x), y) + (1 - r) * loss(S(x'), S_(t-1)(x')),   x' ~ G_(t-1),   r = 1 / t
    generator: r * L(x) + (1 - r) * L(x')

``targets: hard`` takes the previous solver's first choice, ``soft`` its softmax at ``temperature`` T among the units it
knew (DGR with distillation; van de Ven and Tolias 2019, arXiv 1904.07734): T^2 times the cross-entropy of the student's
softmax at T, so that gradients do not shrink as T grows (Hinton et al. 2015). A replay's task is not known: where every
task has a head of its own the previous solver labels it once per old head, and the losses are averaged over the heads.

Departures: the generator is a variational autoencoder (the paper has WGAN-GP), as is usual on MNIST; solver and
generator are updated side by side. Replays come on top of the batch of new rows. Only the decoder of the previous
generator is kept, for nothing else of it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from raycl.errors import Problem, SpecError
from raycl.learning.distillation import unit_groups
from raycl.models.network import frozen_statistics
from raycl.models.vae import VAE
from raycl.spec.needs import Idle
from raycl.spec.options import Count, Fraction, Positive, Width, Widths
from raycl.strategies.base import Context, Losses, Strategy, StrategyConfig, TaskData, Trainable, nested_bytes
from raycl.streams.scenario import Scenario
from raycl.streams.task import Batch

ABSENT = -1e9
"""Logit of a unit that a head does not have; finite, for 0 times minus infinity is no number."""


class GenerativeReplayConfig(StrategyConfig):
    """The generator, and how replays are labelled and weighed."""

    search_space: ClassVar[dict[str, Any]] = {
        "latent_dim": {"choice": [20, 50, 100]},
        "generator_learning_rate": {"loguniform": [1e-4, 1e-2]},
        "targets": {"choice": ["hard", "soft"]},
    }

    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(("temperature",), "only targets: soft have one", lambda at: at.options.targets == "hard"),
    )

    latent_dim: Width = Field(100, description="length of the latent vectors from which images are drawn")
    hidden: Widths = Field(
        (400, 400), min_length=1, description="units per layer of the generator's encoder; the decoder mirrors them"
    )
    generator_learning_rate: Positive | None = Field(None, description="default: training's learning_rate")
    targets: Literal["hard", "soft"] = Field("hard", description="the previous solver's first choice, or its softmax")
    temperature: Positive = Field(2.0, description="of soft targets; their loss is multiplied by its square")
    replay_batch_size: Count | None = Field(
        None, description="generated examples per update; default: training's batch_size"
    )
    replay_share: Literal["tasks"] | Fraction = Field(
        "tasks", description="1 - r, the weight of replays in both losses; tasks: 1 - 1/t in the t-th task"
    )


@dataclass(frozen=True)
class Replays:
    """Generated rows.

    Attributes:
        x: float ``[batch, channels, height, width]`` in [0, 1].
        targets: for every old head a unit's place in it, int64 ``[batch, heads]``, or probabilities
            ``[batch, heads, units of a head]``.
    """

    x: Tensor
    targets: Tensor


class GenerativeReplay(Strategy):
    """A solver and a generator that learn from new data and from what their predecessors make."""

    Config = GenerativeReplayConfig
    keeps_best: ClassVar[bool] = False
    acts_from = dict.fromkeys(("targets", "temperature", "replay_batch_size", "replay_share"), 2)
    between_tasks = ("targets", "temperature", "replay_batch_size", "replay_share", "generator_learning_rate")
    divisible: ClassVar[bool] = False
    paper: ClassVar[str] = "Shin et al. 2017, Continual learning with deep generative replay (arXiv 1705.08690)"
    naive_when: ClassVar[Mapping[str, Any] | None] = {"replay_share": 0.0}

    config: GenerativeReplayConfig

    def __init__(self, config: GenerativeReplayConfig, context: Context) -> None:
        super().__init__(config, context)
        check_pixels(context)
        start, self._random = context.generator.start_and_draws("generative_replay")
        vae = VAE(context.image_shape, config.hidden, config.latent_dim, start)
        self.generator = vae.to(context.device)
        self.previous: dict[str, dict[str, Tensor]] = {}
        self._heads: Heads | None = None

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        training, rate = self.context.training, self.config.generator_learning_rate
        own = training.model_copy(update={"learning_rate": rate}) if rate else None
        return {
            **super().trainable(task),
            "generator": replace(Trainable.of(self.generator.parameters()), training=own),
        }

    def learning_units(self, task: int) -> Sequence[range] | None:
        """Replays are labelled by every old head."""
        return None if task and self._share() else super().learning_units(task)

    def begin_task(self, task: int, data: TaskData) -> None:
        """Freeze the scholar of the tasks before, without the rows that the head gained for this task."""
        if task and self._share():
            self._heads = Heads(self.context.scenario, task, self.context.device)
            solver = _frozen(self.network)
            solver |= {name: solver[name][: self._heads.known] for name in solver if name.startswith("head.")}
            self.previous = {"solver": solver, "decoder": _frozen(self.generator.decoder)}

    def _share(self) -> float:
        """Weight of replays, 1 - r."""
        share = self.config.replay_share
        return 1 - 1 / (self.task + 1) if share == "tasks" else share

    # -- the update --------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        if not self.previous:
            return {**super().loss(batch), "generator": self._generator_loss(batch.x).mean()}
        replays, share = self.replay(), self._share()
        sizes = [len(batch), len(replays.x)]
        x = torch.cat([batch.x, replays.x])
        new, old = self.network(x).split(sizes)
        new_image, old_image = self._generator_loss(x).split(sizes)
        return {
            "task": (1 - share) * self.cross_entropy(new, batch),
            "replay": share * self._replay_loss(old, replays.targets),
            "generator": (1 - share) * new_image.mean() + share * old_image.mean(),
        }

    @torch.no_grad()
    def replay(self) -> Replays:
        """New rows of the previous generator with the labels of the previous solver."""
        count = self.config.replay_batch_size or self.context.training.batch_size
        z = self._noise(count)
        x = functional_call(self.generator.decoder, self.previous["decoder"], (z,)).sigmoid()
        with frozen_statistics(self.network):
            logits = functional_call(self.network, self.previous["solver"], (x,))
        assert self._heads is not None
        logits = self._heads.of(logits)
        if self.config.targets == "hard":
            return Replays(x, logits.argmax(2))
        return Replays(x, (logits / self.config.temperature).softmax(2))

    def _replay_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss ``[]`` over replays and heads, from the solver's logits ``[batch, units]``."""
        assert self._heads is not None
        logits = self._heads.of(logits).flatten(0, 1)
        targets = targets.flatten(0, 1)
        if self.config.targets == "hard":
            return nn.functional.cross_entropy(logits, targets)
        temperature = self.config.temperature
        targets = nn.functional.pad(targets, (0, logits.shape[1] - targets.shape[1]))
        return temperature**2 * nn.functional.cross_entropy(logits / temperature, targets)

    def _generator_loss(self, x: Tensor) -> Tensor:
        """``[batch]``."""
        return self.generator.loss(x, self._noise(len(x)))

    def _noise(self, rows: int) -> Tensor:
        noise = torch.randn(rows, self.config.latent_dim, generator=self._random)
        return noise.to(self.context.device, non_blocking=True)

    # -- size and state ----------------------------------------------------------------------------------------

    def parameter_count(self) -> int:
        return super().parameter_count() + sum(p.numel() for p in self.generator.parameters())

    def state_bytes(self) -> int:
        """The previous scholar is charged, though checkpoints lack it: the next task makes it anew from this one."""
        return super().state_bytes() + nested_bytes(self.previous)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "generator": self.generator.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.load_state_dict(state["generator"])


class Heads:
    """The groups of output units within which replays are labelled: every old task's own, or all units as one.

    Args:
        task: the current task; those before it are old.

    Attributes:
        known: units that the solver of the old tasks had learned.
    """

    def __init__(self, scenario: Scenario, task: int, device: torch.device) -> None:
        units = [scenario.units(old) for old in range(task)]
        self.known = max(own.stop for own in units)
        self._index: Tensor | None = None
        if scenario.policy == "own" and not scenario.shared:
            self._index = unit_groups(units, device) + 1

    def of(self, logits: Tensor) -> Tensor:
        """Logits ``[batch, units]`` -> ``[batch, heads, units of a head]``, ``ABSENT`` where a head has fewer."""
        if self._index is None:
            return logits[:, None]
        padded = nn.functional.pad(logits, (1, 0), value=ABSENT)  # the index has 0 where a head lacks a unit
        return padded.index_select(1, self._index.flatten()).view(len(logits), *self._index.shape)


def _frozen(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def check_pixels(context: Context) -> None:
    """Refuse pixels that a generator of images in [0, 1] cannot draw.

    Raises:
        SpecError: normalisation takes them beyond, or features take their place.
    """
    extremes = torch.tensor([0, 255], dtype=torch.uint8, device=context.device).view(2, 1, 1, 1)
    lowest, highest = context.normalize(extremes.expand(2, context.image_shape[0], 1, 1)).aminmax()
    if lowest < 0 or highest > 1:
        rule = "the generator draws pixels in [0, 1]; use unit, and no stream.encode"
        raise SpecError([Problem("stream.normalize", rule, f"pixels from {lowest:g} to {highest:g}")])
