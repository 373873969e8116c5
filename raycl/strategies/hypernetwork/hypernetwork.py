"""Task-conditioned hypernetworks: a generator network remembers the weights of every task's network.

von Oswald, Henning, Grewe and Sacramento, "Continual learning with hypernetworks", ICLR 2020 (arXiv 1906.00695):
whole or chunked generator (sections 2.1 and 2.2), output regulariser with one step of lookahead (eq. 2), private
task embeddings, and task inference by entropy where the id is hidden (HNET+ENT, section 2.3). Defaults are the
settings of the authors' Split MNIST experiments. Theta (chunk embeddings included) is shared and protected; a task's
embedding is learned during its task only.

Departures:
- Tasks arrive without their number being known, so a weight set has one head, that of its own task, as wide as the
  stream's largest task. The authors generate the heads of all tasks in every weight set; training, regulariser and test
  of a task then use its own head all the same. D no longer grows with the number of tasks (their figures of the domain
  scenario hold for all three: Split MNIST D = 475,202, ratio 0.98), and beta acts on the own head only.
- The regulariser is evaluated from Gram matrices (exact; ``regulariser: direct`` builds every old network).
- Running statistics of batch normalisation are kept per task and counted in the state's bytes, not in the ratio.
- Least entropy is found in log space, where saturated predictions still differ, and relative to the largest possible
  one of each head, where tasks have different numbers of classes.
- Optimisers begin anew with every task, whatever ``training.reset_optimizer`` says, as in the authors' code.

``penalty`` holds theta itself, by online EWC (:mod:`raycl.learning.theta_ewc`), beside the output regulariser or, with
``beta: 0``, in its place: the paper's control.

``layer`` makes it a partial hypernetwork (Hemati, Lomonaco, Bacciu and Borth, "Partial hypernetworks for continual
learning", CoLLAs 2023, arXiv 2306.10724): the backbone up to that layer is shared by all tasks. It learns beside theta
in the first task, and is frozen from the second on, running statistics included; or it is frozen from the start, where
the model has pretrained ``weights`` (``freeze: from_start``). What lies above is generated, regularised, and
counted in the ratio. ``new_embedding: last`` starts embeddings as their code does. Departures: the lookahead is a step
of the optimiser, theirs one of SGD; weights of norm layers are generated, theirs are free for every task, and running
statistics are kept, where theirs are the batch's, at test too. A frozen part sees each row once a task where nothing
augments: its activations are kept for the task's updates, up to 512 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.learning.fisher import FISHER_BATCH, likelihood_gradients
from raycl.learning.own_units import own_head_only, require_own_units
from raycl.learning.protected_generator import PROTECTION, GeneratorOptions, ProtectedGenerator
from raycl.learning.task_inference import CERTAINTY, least_entropy, placed, undecidable
from raycl.learning.theta_ewc import THETA_EWC, ThetaEWC, ThetaEWCOptions
from raycl.models.cut import divide
from raycl.models.hypernetwork import WeightGenerator
from raycl.models.target import Buffers, TargetNetwork
from raycl.spec.needs import NEW_OPTIMIZERS, Costly, Idle, Need
from raycl.spec.options import Later
from raycl.spec.protocols import Decay
from raycl.spec.revisions import Change
from raycl.strategies.base import (
    Context,
    Losses,
    Phase,
    Position,
    Rows,
    Source,
    Strategy,
    StrategyConfig,
    TaskData,
    Trainable,
)
from raycl.strategies.ewc import EXACT_IS_COSTLY
from raycl.strategies.lower_part import FREEZE, Freeze, LowerPart
from raycl.streams.scenario import Scenario
from raycl.streams.task import Batch

EVALUATION_NUMBERS = 2**26
"""Numbers held at once by evaluation (256 MB): generated weights kept, and networks run side by side."""


LATENT_NUMBERS = 2**27
"""Numbers of activations at the cut that are kept for a task's updates (512 MB), where it has no more of them."""

GENERATED_START = Idle(("model.init",), "the layers' weights are generated", lambda at: at.options.layer is None)
SHARED_START = Need(
    "model.weights",
    "all weights are generated, and none can start from a file; name the last shared layer in layer, or leave it out",
    lambda at: at.model.weights is None or at.options.layer is not None,
    bars=True,
)
KEPT_WEIGHTS = Change("kept weights", 2, lambda at: at.training.keep_best)
"""A task was judged by the network of its last pass."""


class ClassifierGeneratorOptions(ThetaEWCOptions, GeneratorOptions):
    """The generator of classifiers, its protection, and which layers are not generated."""

    ignores: ClassVar[tuple[Idle, ...]] = (
        *GeneratorOptions.ignores,
        *ThetaEWCOptions.ignores,
        Idle(("freeze",), "without layer tasks share no layers", lambda at: at.options.layer is None),
    )

    layer: Annotated[str | None, Later()] = Field(
        None,
        description="the last of the backbone's modules that all tasks share, by name (a wrong one lists them), in a "
        "partial hypernetwork; default: all weights are generated",
    )
    freeze: Annotated[Freeze, Later()] = Field("after_first_task", description=f"shared layers; {FREEZE}")


class HypernetworkConfig(ClassifierGeneratorOptions, StrategyConfig):
    """The generator network, its protection, and how a hidden task is found."""

    task_inference: Literal["entropy"] = Field("entropy", description="how a hidden task id is found")


class Hypernetwork(Strategy):
    """Learn the weights of each task's network through a shared generator."""

    Config: ClassVar[type[StrategyConfig]] = HypernetworkConfig
    acts_from = {
        **dict.fromkeys((*PROTECTION, *THETA_EWC, "new_embedding"), 2),
        **dict.fromkeys(("sampled_tasks", "online_decay"), 3),
    }
    between_tasks: ClassVar[tuple[str, ...]] = (*PROTECTION, *THETA_EWC)
    stability: ClassVar[tuple[Decay, ...] | None] = (Decay(option="beta"), Decay(option="penalty"))
    plastic: ClassVar[Mapping[str, Any] | None] = {"beta": 0.0, "penalty": 0.0}
    needs: ClassVar[tuple[Need, ...]] = (own_head_only("a generated network"), CERTAINTY, SHARED_START)
    ignores: ClassVar[tuple[Idle, ...]] = (NEW_OPTIMIZERS, GENERATED_START)
    changes: ClassVar[tuple[Change, ...]] = (KEPT_WEIGHTS,)
    costly: ClassVar[tuple[Costly, ...]] = (EXACT_IS_COSTLY,)
    diagnosable: ClassVar[bool] = False
    compresses: ClassVar[bool] = True
    idle_rows = "never"
    paper: ClassVar[str] = "von Oswald et al. 2020, Continual learning with hypernetworks (arXiv 1906.00695)"
    zero_shot: ClassVar[bool] = False

    def __init__(self, config: ClassifierGeneratorOptions, context: Context) -> None:
        super().__init__(config, context)
        scenario = context.scenario
        require_own_units(scenario, "a generated network")
        self._units = max(scenario.sizes)
        self.lower, above = nn.Sequential(), self.network
        if config.layer is not None:
            self.lower, above = divide(self.network, config.layer)
        self._below = LowerPart(self.lower, config.freeze)
        seen = self._below.of(torch.zeros(1, *context.image_shape, device=context.device))[0]
        self._latents: Rows | None = None  # of the task, where shared layers give the same ones every time
        self.target = TargetNetwork(above, self._units, seen.shape)
        self.network = self.target.network
        sizes = [shape.numel() for shape in self.target.shapes.values()]
        random = context.generator.start_and_draws("hypernetwork")
        self.protected = ProtectedGenerator(sizes, self.target.variances, config, random, context.device)
        self.ewc = ThetaEWC(self.protected.generator, config, context.optimizers)
        self._states: list[Buffers] = []
        self._generated: dict[int, Tensor] = {}

    @classmethod
    def unfit(cls, config: Any, scenario: Scenario) -> str | None:
        """Least entropy must be able to tell tasks apart."""
        reason = undecidable(scenario)
        return reason and f"{reason}, or use hypernetwork_tir"

    @property
    def generator(self) -> WeightGenerator:
        return self.protected.generator

    @property
    def embeddings(self) -> Sequence[nn.Parameter]:
        """One per task so far."""
        return self.protected.embeddings

    # -- growth and optimisation -------------------------------------------------------------------------------

    def grow(self, task: int) -> None:
        self.task = task
        self.protected.grow()
        self._states.append(self.target.new_state(self.context.device))
        self._below.begin(task)

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        own = {name: Trainable.of(parameters) for name, parameters in self.protected.parameters().items()}
        shared = self._shared(task)
        return {**own, "shared": Trainable.of(shared)} if shared else own

    def _shared(self, task: int) -> list[nn.Parameter]:
        """Parameters of shared layers that a task trains."""
        return [] if self._below.frozen(task) else list(self.lower.parameters())

    def train(self, mode: bool) -> None:
        super().train(mode)
        self._below.hold_statistics(self.task)

    # -- the task ----------------------------------------------------------------------------------------------

    def phases(self, task: int) -> Sequence[Phase]:
        return (Phase("train", self.length(), self._latents or Source.CURRENT, new_optimizers=True),)

    def begin_task(self, task: int, data: TaskData) -> None:
        self.protected.protect([self.target.beyond(self.context.scenario.sizes[old]) for old in range(task)])
        if self._keeps_latents(task, data):
            self._latents = self._below.activations(data)

    def _keeps_latents(self, task: int, data: TaskData) -> bool:
        """Whether what frozen layers make of the task's rows is the same in every update, and has room."""
        if self.config.layer is None or not self._below.frozen(task):
            return False
        changes = self.context.augments or self.context.training.real_time
        return not changes and len(data) * self.target.floats_coming_in <= LATENT_NUMBERS

    def end_task(self, task: int, data: TaskData) -> None:
        self.protected.release()
        self._latents = None
        self._generated.clear()  # what training.keep_best puts back is generated anew
        if self.ewc.holds:
            examples = min(len(data), self.config.fisher_examples or len(data))
            subject = f"hypernetwork: the Fisher information of theta after task {task}"
            self.ewc.end(self.embeddings[task], self._likelihood_gradients(task, data), examples, subject)

    def _likelihood_gradients(self, task: int, data: TaskData) -> Iterator[Tensor]:
        """Of the task's rows, by the weights of its network ``[rows, numel]``."""
        size, offset = self.context.scenario.sizes[task], self.context.scenario.offset(task)
        network = self.target.built(self.protected.weights([task])[0], self._states[task])
        batches = (
            replace(batch, x=self._below.of(batch.x), y=batch.y - offset)
            for batch in data.batches(FISHER_BATCH, self.config.fisher_examples)
        )

        def active(batch: Batch) -> Tensor:
            return (torch.arange(self._units, device=batch.y.device) < size).expand(len(batch), -1)

        return likelihood_gradients(network, batches, active, self.config.fisher, self.context.generator("fisher"))

    # -- the update --------------------------------------------------------------------------------------------

    def step(self, batch: Batch, at: Position) -> Losses:
        losses = self.loss(batch)
        optimizers, shared = self.context.optimizers, self._shared(at.task)
        clip = self.context.training.gradient_clip
        regulariser = self.protected.backward(losses["task"], optimizers["theta"], clip, shared)
        if regulariser is not None:
            losses["regulariser"] = regulariser
        self.ewc.before_update()
        optimizers.step(*self.protected.parameters(), *(["shared"] if shared else []))
        self.ewc.after_update()
        self._generated.clear()
        return {name: value.detach() for name, value in losses.items()}

    def loss(self, batch: Batch) -> Losses:
        """Cross-entropy over the own task's units."""
        scenario, task = self.context.scenario, self.task
        weights = self.protected.current()
        x = batch.x if self._latents is not None else self.lower(batch.x)
        logits = self.target.forward(weights, self._states[task], x)[:, : scenario.sizes[task]]
        return {"task": self.label_loss(logits, batch.y - scenario.offset(task))}

    def remedy(self) -> str:
        return self.ewc.remedy(super().remedy())

    # -- prediction --------------------------------------------------------------------------------------------

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        """Logits ``[batch, outputs so far]``: those of one task's units, minus infinity elsewhere."""
        if task is None:
            chosen, logits = self._inferred(x)
        else:
            chosen, logits = torch.full((len(x),), task, device=x.device), self._logits([task], self.lower(x))[0]
        return placed(logits, chosen, self.context.scenario, self.task)

    @torch.no_grad()
    def at_embedding(self, embedding: Tensor, x: Tensor, task: int) -> Tensor:
        """Logits ``[batch, units]`` of the network that any embedding ``[task_embedding_dim]`` makes, to evaluate.

        Args:
            task: whose running statistics and output units it has.
        """
        weights = self.generator(embedding[None])[0]
        return self.target.forward(weights, self._states[task], self.lower(x))[:, : self.context.scenario.sizes[task]]

    def infer_task(self, x: Tensor) -> Tensor:
        """int64 ``[batch]``: the task each row is taken to belong to, from that row alone."""
        return self._inferred(x)[0]

    def _inferred(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's task ``[batch]``, and that task's logits ``[batch, units]``."""
        return least_entropy(self._all_tasks(self.lower(x)))

    def _all_tasks(self, x: Tensor) -> Iterator[Tensor]:
        """Logits ``[tasks, batch, units]`` of all tasks for activations at the cut, in groups that fit into memory."""
        floats = self.target.numel + len(x) * self.target.floats_per_row
        tasks = list(range(len(self.embeddings)))
        count = max(1, EVALUATION_NUMBERS // floats)
        for first in range(0, len(tasks), count):
            yield self._logits(tasks[first : first + count], x)

    def _logits(self, tasks: Sequence[int], x: Tensor) -> Tensor:
        """Logits ``[tasks, batch, units]`` for activations at the cut, minus infinity at units that a task lacks."""
        if len(tasks) == 1:
            logits = self.target.forward(self._weights(tasks[0]), self._states[tasks[0]], x)[None]
        else:
            weights = torch.stack([self._weights(task) for task in tasks])
            logits = self.target.forward_many(weights, [self._states[task] for task in tasks], x)
        sizes = torch.tensor([self.context.scenario.sizes[task] for task in tasks], device=x.device)
        missing = torch.arange(self._units, device=x.device) >= sizes[:, None, None]
        return logits.masked_fill(missing, float("-inf"))

    def _weights(self, task: int) -> Tensor:
        """A task's generated weights ``[numel]``, kept until theta moves while there is room."""
        if task in self._generated:
            return self._generated[task]
        weights = self.protected.weights([task])[0]
        if (len(self._generated) + 1) * self.target.numel <= EVALUATION_NUMBERS:
            self._generated[task] = weights
        return weights

    def active_logits(self) -> str:
        """A generated network has its own task's head only."""
        return "own"

    # -- size and state ----------------------------------------------------------------------------------------

    def parameter_count(self) -> int:
        return self.protected.parameter_count() + sum(parameter.numel() for parameter in self.lower.parameters())

    def state_bytes(self) -> int:
        return super().state_bytes() + self.protected.held_bytes()

    def compression_ratio(self) -> float:
        """Weights of the generator, all task embeddings included, over the weights that it generates for a task; shared
        layers are in neither."""
        return self.protected.parameter_count() / self.target.numel

    def measures(self) -> dict[str, float]:
        """``compression_ratio``, and ``target_parameters``: the weights that are generated for a task."""
        return {"compression_ratio": self.compression_ratio(), "target_parameters": self.target.numel}

    def state_dict(self) -> dict[str, Any]:
        shared = self.lower.state_dict()
        own = {**self.protected.state_dict(), **self.ewc.state_dict(), "states": list(self._states)}
        return {**own, "shared": shared} if shared else own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.protected.load_state_dict(state)
        self.ewc.load_state_dict(state, self.context.device)
        self.lower.load_state_dict(state.get("shared", {}))
        for own, stored in zip(self._states, state["states"], strict=True):
            for name, buffer in own.items():
                buffer.copy_(stored[name])
        self._generated.clear()
