"""HNET+TIR: a hypernetwork whose task is inferred by a classifier that rehearses generated images of old tasks.

von Oswald, Henning, Grewe and Sacramento, "Continual learning with hypernetworks", ICLR 2020 (arXiv 1906.00695),
section 2.3 and appendix B. Three things are learned in every task, one after another: the weights of the task's own
network, by the hypernetwork of :mod:`raycl.strategies.hypernetwork.hypernetwork`; an ordinary network with one more
output unit, which tells the tasks apart, from new rows labelled with their task and from images x' of task j that the
old decoders draw (ceil(B / (t - 1)) of each in every update, share = 1/2); and the generator of the task's images
(:mod:`raycl.learning.protected_vae`):

    (1 - share) * CE(I(x), t) + share * CE(I(x'), j)

At test the inferred task selects the generated network, and with it the output units, row by row. In the first task
there is nothing to tell apart. Defaults are the settings of the authors' Split MNIST experiments.

The authors' inference network starts Xavier-uniform, which ``model.init: xavier`` asks for.

Departures: those of the two modules. Where the task id is given there is nothing to infer: use ``hypernetwork``, which
is then the same method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.learning.own_units import own_head_only
from raycl.learning.protected_generator import PROTECTION
from raycl.learning.protected_vae import Hidden, ProtectedVAE, ProtectedVAEOptions
from raycl.spec.needs import NEW_OPTIMIZERS, Idle, Need
from raycl.spec.options import Count, Fraction
from raycl.strategies.base import Context, Losses, Phase, Position, StrategyConfig, TaskData, Trainable, total
from raycl.strategies.generative_replay import check_pixels
from raycl.strategies.hypernetwork.hypernetwork import SHARED_START, ClassifierGeneratorOptions, Hypernetwork
from raycl.strategies.hypernetwork.replay import UNDRAWN, draw_phases
from raycl.streams.scenario import Scenario
from raycl.streams.task import Batch


class InferenceVAEOptions(ProtectedVAEOptions):
    """Generators that need to tell tasks apart, not classes: smaller ones."""

    decoder_hidden: Hidden = Field((50, 150), description="units per layer of a decoder, from the latent vector on")


class HypernetworkTIRConfig(ClassifierGeneratorOptions, StrategyConfig):
    """The generator of classifiers, that of images, and how replays are weighed."""

    search_space: ClassVar[dict[str, Any]] = {
        **ClassifierGeneratorOptions.search_space,
        "vae.beta": {"loguniform": [1e-4, 10]},
        "vae.chunk_size": {"lograndint": [500, 100_000]},
    }

    vae: InferenceVAEOptions = Field(InferenceVAEOptions(), description="the generator of images, and its protection")
    replay_share: Fraction = Field(0.5, description="weight of replays in the loss of task inference")
    replay_batch_size: Count | None = Field(
        None, description="replays per update, the same number of each old task; default: training's batch_size"
    )


_OF_IMAGES = tuple(f"vae.{name}" for name in PROTECTION)


class HypernetworkTIR(Hypernetwork):
    """Generated networks, selected by a classifier of tasks."""

    Config = HypernetworkTIRConfig
    keeps_best: ClassVar[bool] = False
    acts_from = {
        **Hypernetwork.acts_from,
        **dict.fromkeys(("replay_share", "replay_batch_size", "vae.new_embedding", "vae.replays"), 2),
        **dict.fromkeys(_OF_IMAGES, 3),
        "vae.sampled_tasks": 4,
    }
    between_tasks = (*Hypernetwork.between_tasks, *_OF_IMAGES, "replay_share", "replay_batch_size")
    stability = None  # its generators of images are held besides
    divisible: ClassVar[bool] = False
    one_pass: ClassVar[bool] = False
    idle_rows = "never"
    passes: ClassVar[tuple[str, ...]] = (*Hypernetwork.passes, "inference_loss")
    needs: ClassVar[tuple[Need, ...]] = (own_head_only("a generated network"), SHARED_START)
    ignores: ClassVar[tuple[Idle, ...]] = (
        NEW_OPTIMIZERS,
        Idle(
            tuple(f"vae.{name}" for name in UNDRAWN),
            "images are stored, and nothing draws them",
            lambda at: at.options.vae.replays == "stored",
        ),
    )
    scenarios: ClassVar[frozenset[str]] = frozenset({"domain", "class"})

    config: HypernetworkTIRConfig

    def __init__(self, config: HypernetworkTIRConfig, context: Context) -> None:
        super().__init__(config, context)
        check_pixels(context)
        self.inference = context.new_network()
        random = context.generator.start_and_draws("hypernetwork_tir")
        self.vae = ProtectedVAE(context.image_shape, config.vae, random, context.device)
        context.watch(self.vae.encoder, self.vae.decoder)

    @classmethod
    def unfit(cls, config: Any, scenario: Scenario) -> str | None:
        """The inference network tells tasks of any size apart."""
        return None

    # -- the task ----------------------------------------------------------------------------------------------

    def grow(self, task: int) -> None:
        super().grow(task)
        self.inference.grow_head(task + 1)
        self.vae.grow()

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        parameters = {"inference": list(self.inference.parameters()), **self.vae.parameters()}
        own = {name: Trainable.of(trained) for name, trained in parameters.items()}
        return {**super().trainable(task), **own}

    def begin_task(self, task: int, data: TaskData) -> None:
        super().begin_task(task, data)
        self.vae.begin(self.config.replay_batch_size or self.context.training.batch_size)

    def phases(self, task: int) -> Sequence[Phase]:
        """The task's network, the inference network where there is more than one task, and the images' generator."""
        classify = super().phases(task)
        infer = (Phase("infer", self.length(), step=self._learn_to_infer),) if task else ()
        return (*classify, *infer, *draw_phases(self.vae, self.context, self.length()))

    def end_task(self, task: int, data: TaskData) -> None:
        super().end_task(task, data)
        self.vae.end(data.table)

    # -- task inference ----------------------------------------------------------------------------------------

    def _learn_to_infer(self, batch: Batch, at: Position) -> Losses:
        losses = self.inference_loss(batch)
        optimizers = self.context.optimizers
        optimizers.zero_grad()
        total(losses).backward()
        optimizers.step("inference")
        return {name: value.detach() for name, value in losses.items()}

    def inference_loss(self, batch: Batch) -> Losses:
        """Cross-entropy of tasks, over new rows and over replays."""
        replays, share = self.vae.replay(), self.config.replay_share
        logits = self.inference(torch.cat([batch.x, replays]))  # [batch + replays, tasks so far]
        new, old = logits.split([len(batch), len(replays)])
        return {
            "inference": (1 - share) * nn.functional.cross_entropy(new, batch.task),
            "replay": share * nn.functional.cross_entropy(old, self.vae.origins),
        }

    def infer_task(self, x: Tensor) -> Tensor:
        """int64 ``[batch]``: the task each row is taken to belong to, from that row alone."""
        logits: Tensor = self.inference(x)
        return logits.argmax(1)

    def _inferred(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's task ``[batch]``, and that task's logits ``[batch, units]``; a network sees its own rows only."""
        chosen = self.infer_task(x)
        below = self.lower(x)
        logits = x.new_empty(len(x), self._units)  # every row is of one task, so all are filled
        for task in chosen.unique().tolist():
            rows = chosen == task
            logits[rows] = self._logits([task], below[rows])[0]
        return chosen, logits

    # -- size and state ----------------------------------------------------------------------------------------

    def parameter_count(self) -> int:
        inference = sum(parameter.numel() for parameter in self.inference.parameters())
        return super().parameter_count() + inference + self.vae.parameter_count()

    def state_bytes(self) -> int:
        return super().state_bytes() + self.vae.protected.held_bytes()

    def compression_ratio(self) -> float:
        """Trainable weights of both hypernetworks over the weights of one classifier and one decoder."""
        drawing = 0 if self.vae.stored else self.vae.protected.parameter_count()
        return (self.protected.parameter_count() + drawing) / self._made

    @property
    def _made(self) -> int:
        """Weights that are generated for a task."""
        return self.target.numel + (0 if self.vae.stored else self.vae.decoder.numel)

    def measures(self) -> dict[str, float]:
        """``compression_ratio``, and ``target_parameters``: the weights of one classifier and one decoder."""
        return {**super().measures(), "target_parameters": self._made}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "inference": self.inference.state_dict(), "vae": self.vae.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.inference.load_state_dict(state["inference"])
        self.vae.load_state_dict(state["vae"])
