"""HNET+R: an ordinary classifier rehearses images from generators that a hypernetwork keeps from forgetting.

von Oswald, Henning, Grewe and Sacramento, "Continual learning with hypernetworks", ICLR 2020 (arXiv 1906.00695),
section 2.3 and appendix B. Each task first teaches the classifier, then its generator
(:mod:`raycl.learning.protected_vae`). In every update of the classifier in task t > 1, each of the t - 1 old decoders
draws ceil(B / (t - 1)) images x', and a copy of the classifier made when the task began labels them softly:

    (1 - share) * CE(C(x), y) + share * T^2 * CE(softmax(C(x') / T), softmax(C_(t-1)(x') / T)),    share = 1/2, T = 2

A replay's task is known, so where every task has a head of its own, its softmax is that task's. In class-incremental
learning the softmax runs over all units so far, and the copy gives those that it does not know a logit of 0, as in the
authors' code: a part of every old image then belongs to new classes, a small one where old classes are told apart well.
``new_units: absent`` gives them a probability of 0, as distillation usually does. After 600 updates a task of Split
MNIST the logit kept 91.6 % and the probability 89.4 % (one seed, validation data); on digits, told apart less well, a
quarter of every old image went to new classes. Defaults are the settings of the authors' Split MNIST experiments.

The authors' classifier starts Xavier-uniform, which ``model.init: xavier`` asks for.

Departures: optimisers begin anew with every task, whatever ``training.reset_optimizer`` says. The old decoders are made
once a task, from weights that do not move while the classifier learns; they are no state, and not charged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.learning.distillation import frozen_copy
from raycl.learning.protected_generator import PROTECTION
from raycl.learning.protected_vae import ProtectedVAE, ProtectedVAEOptions
from raycl.models.network import Network
from raycl.spec.needs import NEW_OPTIMIZERS, Idle
from raycl.spec.options import Count, Fraction, Positive
from raycl.strategies.base import (
    Context,
    Length,
    Losses,
    Phase,
    Position,
    Strategy,
    StrategyConfig,
    TaskData,
    Trainable,
    nested_bytes,
)
from raycl.strategies.generative_replay import ABSENT, check_pixels
from raycl.streams.task import Batch


class HypernetworkReplayConfig(ProtectedVAEOptions, StrategyConfig):
    """The generators and their protection, and how replays are labelled and weighed."""

    search_space: ClassVar[dict[str, Any]] = {
        **ProtectedVAEOptions.search_space,
        "new_units": {"choice": ["zero_logit", "absent"]},
    }

    replay_share: Fraction = Field(0.5, description="weight of replays in the classifier's loss, once there are any")
    replay_batch_size: Count | None = Field(
        None, description="replays per update, the same number of each old task; default: training's batch_size"
    )
    temperature: Positive = Field(2.0, description="of the soft targets; their loss is multiplied by its square")
    new_units: Literal["zero_logit", "absent"] = Field(
        "zero_logit", description="what soft targets say of units that came with the task: logit 0, or probability 0"
    )


_OF_REPLAYS = ("replay_share", "replay_batch_size", "temperature", "new_units")
_OF_GENERATORS = ("task_embedding_dim", "chunk_embedding_dim", "chunk_size", "init", "new_embedding", "dropout")
UNDRAWN = tuple(name for name in ProtectedVAEOptions.model_fields if name != "replays")
"""What says how images are drawn."""


class HypernetworkReplay(Strategy):
    """A classifier that learns from new images and from those that the old tasks' generators draw."""

    Config = HypernetworkReplayConfig
    keeps_best: ClassVar[bool] = False
    acts_from = {  # what is held is seen in what it draws, while the next task is learned
        **dict.fromkeys((*_OF_REPLAYS, *_OF_GENERATORS, "replays"), 2),
        **dict.fromkeys(PROTECTION, 3),
        "sampled_tasks": 4,
    }
    between_tasks = (*PROTECTION, *_OF_REPLAYS)
    divisible: ClassVar[bool] = False
    one_pass: ClassVar[bool] = False
    ignores: ClassVar[tuple[Idle, ...]] = (
        NEW_OPTIMIZERS,
        Idle(UNDRAWN, "images are stored, and nothing draws them", lambda at: at.options.replays == "stored"),
    )
    compresses: ClassVar[bool] = True
    paper: ClassVar[str] = "von Oswald et al. 2020, Continual learning with hypernetworks (arXiv 1906.00695)"
    naive_when: ClassVar[Mapping[str, Any] | None] = {"replay_share": 0.0}

    config: HypernetworkReplayConfig

    def __init__(self, config: HypernetworkReplayConfig, context: Context) -> None:
        super().__init__(config, context)
        check_pixels(context)
        random = context.generator.start_and_draws("hypernetwork_replay")
        self.vae = ProtectedVAE(context.image_shape, config, random, context.device)
        context.watch(self.vae.encoder, self.vae.decoder)
        self.previous: Network | None = None
        self._unknown = self._idle = torch.empty(0)

    # -- the task ----------------------------------------------------------------------------------------------

    def grow(self, task: int) -> None:
        super().grow(task)
        self.vae.grow()

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        own = {name: Trainable.of(parameters) for name, parameters in self.vae.parameters().items()}
        return {**super().trainable(task), **own}

    def learning_units(self, task: int) -> Sequence[range] | None:
        """Every update has replays of every old task."""
        return None if task and self.config.replay_share else super().learning_units(task)

    def begin_task(self, task: int, data: TaskData) -> None:
        self.vae.begin(self.config.replay_batch_size or self.context.training.batch_size)
        if task and self.config.replay_share:
            self.previous = frozen_copy(self.network)
            self._unknown, self._idle = self._units(task)

    def _units(self, task: int) -> tuple[Tensor, Tensor]:
        """Per replay, units that the copy does not know and units that do not compete, bool ``[replays, outputs]``."""
        scenario, origins = self.context.scenario, self.vae.origins
        if scenario.policy == "own":
            others = ~scenario.mask(origins, "own", task)
            return others, others
        idle = ~scenario.mask(origins, "all" if scenario.policy == "all" else "seen", task)
        known = max(scenario.units(old).stop for old in range(task))
        return (torch.arange(idle.shape[1], device=origins.device) >= known).expand_as(idle), idle

    def phases(self, task: int) -> Sequence[Phase]:
        train = Phase("train", self.length(), new_optimizers=True)
        return (train, *draw_phases(self.vae, self.context, self.length())) if self.config.replay_share else (train,)

    def end_task(self, task: int, data: TaskData) -> None:
        self.vae.end(data.table)

    def train(self, mode: bool) -> None:
        super().train(mode)
        if self.previous is not None:
            self.previous.eval()

    # -- the classifier's update -------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        if self.previous is None:
            return super().loss(batch)
        x = self.vae.replay()
        new, old = self.network(torch.cat([batch.x, x])).split([len(batch), len(x)])
        share = self.config.replay_share
        return {
            "task": (1 - share) * self.cross_entropy(new, batch),
            "replay": share * self._distillation(old, self.targets(x)),
        }

    @torch.no_grad()
    def targets(self, x: Tensor) -> Tensor:
        """What the copy says of the replays: probabilities ``[replays, outputs]``."""
        assert self.previous is not None
        unknown = 0.0 if self.config.new_units == "zero_logit" else ABSENT
        logits: Tensor = self.previous(x)
        logits = logits.masked_fill(self._unknown, unknown).masked_fill(self._idle, ABSENT)
        return (logits / self.config.temperature).softmax(1)

    def _distillation(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss ``[]`` over replays, from the classifier's logits ``[replays, outputs]``."""
        temperature = self.config.temperature
        logits = logits.masked_fill(self._idle, ABSENT)
        return temperature**2 * nn.functional.cross_entropy(logits / temperature, targets)

    # -- size and state ----------------------------------------------------------------------------------------

    def parameter_count(self) -> int:
        return super().parameter_count() + self.vae.parameter_count()

    def compression_ratio(self) -> float | None:
        """Trainable weights of the hypernetwork, all task embeddings included, over the weights of one decoder; None
        where images are stored."""
        return None if self.vae.stored else self.vae.protected.parameter_count() / self.vae.decoder.numel

    def measures(self) -> dict[str, float]:
        """``compression_ratio``, where there is one, and ``target_parameters``: the weights of one decoder."""
        ratio = self.compression_ratio()
        return {} if ratio is None else {"compression_ratio": ratio, "target_parameters": self.vae.decoder.numel}

    def state_bytes(self) -> int:
        """The copy is charged, though checkpoints lack it: the next task makes it anew from the classifier."""
        copy = nested_bytes(self.previous.state_dict()) if self.previous is not None else 0
        return super().state_bytes() + copy + self.vae.protected.held_bytes()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "vae": self.vae.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.vae.load_state_dict(state["vae"])


def draw_phases(vae: ProtectedVAE, context: Context, length: Length) -> Sequence[Phase]:
    """The phase in which the current task's generator is learned; none where images are stored."""
    if vae.stored:
        return ()

    loss = vae.loss if context.precision is None else context.precision(vae.loss)

    def step(batch: Batch, at: Position) -> Losses:
        optimizers = context.optimizers
        losses = vae.backward(loss(batch.x), optimizers["decoder_theta"], context.training.gradient_clip)
        optimizers.step(*vae.parameters())
        return {name: value.detach() for name, value in losses.items()}

    return (Phase("draw", length, step=step),)
