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
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.learning.own_units import own_head_only, require_own_units
from raycl.learning.protected_generator import PROTECTION, GeneratorOptions, ProtectedGenerator
from raycl.learning.task_inference import CERTAINTY, least_entropy, placed, undecidable
from raycl.models.hypernetwork import WeightGenerator
from raycl.models.target import Buffers, TargetNetwork
from raycl.spec.needs import NEW_OPTIMIZERS, Idle, Need
from raycl.spec.protocols import Decay
from raycl.strategies.base import Context, Losses, Phase, Position, Strategy, StrategyConfig, TaskData, Trainable
from raycl.streams.scenario import Scenario
from raycl.streams.task import Batch

EVALUATION_NUMBERS = 2**26
"""Numbers held at once by evaluation (256 MB): generated weights kept, and networks run side by side."""


class HypernetworkConfig(GeneratorOptions, StrategyConfig):
    """The generator network, its protection, and how a hidden task is found."""

    task_inference: Literal["entropy"] = Field("entropy", description="how a hidden task id is found")


class Hypernetwork(Strategy):
    """Learn the weights of each task's network through a shared generator."""

    Config: ClassVar[type[StrategyConfig]] = HypernetworkConfig
    acts_from = {**dict.fromkeys((*PROTECTION, "new_embedding"), 2), "sampled_tasks": 3}
    between_tasks: ClassVar[tuple[str, ...]] = PROTECTION
    stability: ClassVar[tuple[Decay, ...] | None] = (Decay(option="beta"),)
    plastic: ClassVar[Mapping[str, Any] | None] = {"beta": 0.0}
    needs: ClassVar[tuple[Need, ...]] = (own_head_only("a generated network"), CERTAINTY)
    ignores: ClassVar[tuple[Idle, ...]] = (
        NEW_OPTIMIZERS,
        Idle(("model.init",), "the layers' weights are generated"),
    )
    diagnosable: ClassVar[bool] = False
    compresses: ClassVar[bool] = True
    idle_rows = "never"
    paper: ClassVar[str] = "von Oswald et al. 2020, Continual learning with hypernetworks (arXiv 1906.00695)"
    zero_shot: ClassVar[bool] = False
    pretrained: ClassVar[bool] = False

    def __init__(self, config: GeneratorOptions, context: Context) -> None:
        super().__init__(config, context)
        scenario = context.scenario
        require_own_units(scenario, "a generated network")
        self._units = max(scenario.sizes)
        self.target = TargetNetwork(self.network, self._units, context.image_shape)
        self.network = self.target.network
        sizes = [shape.numel() for shape in self.target.shapes.values()]
        random = context.generator.start_and_draws("hypernetwork")
        self.protected = ProtectedGenerator(sizes, self.target.variances, config, random, context.device)
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

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        return {name: Trainable.of(parameters) for name, parameters in self.protected.parameters().items()}

    def phases(self, task: int) -> Sequence[Phase]:
        return (Phase("train", self.length(), new_optimizers=True),)

    def begin_task(self, task: int, data: TaskData) -> None:
        self.protected.protect([self.target.beyond(self.context.scenario.sizes[old]) for old in range(task)])

    def end_task(self, task: int, data: TaskData) -> None:
        self.protected.release()

    # -- the update --------------------------------------------------------------------------------------------

    def step(self, batch: Batch, at: Position) -> Losses:
        losses = self.loss(batch)
        optimizers = self.context.optimizers
        clip = self.context.training.gradient_clip
        regulariser = self.protected.backward(losses["task"], optimizers["theta"], clip)
        if regulariser is not None:
            losses["regulariser"] = regulariser
        optimizers.step(*self.protected.parameters())
        self._generated.clear()
        return {name: value.detach() for name, value in losses.items()}

    def loss(self, batch: Batch) -> Losses:
        """Cross-entropy over the own task's units."""
        scenario, task = self.context.scenario, self.task
        weights = self.protected.current()
        logits = self.target.forward(weights, self._states[task], batch.x)[:, : scenario.sizes[task]]
        return {"task": self.label_loss(logits, batch.y - scenario.offset(task))}

    # -- prediction --------------------------------------------------------------------------------------------

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        """Logits ``[batch, outputs so far]``: those of one task's units, minus infinity elsewhere."""
        if task is None:
            chosen, logits = self._inferred(x)
        else:
            chosen, logits = torch.full((len(x),), task, device=x.device), self._logits([task], x)[0]
        return placed(logits, chosen, self.context.scenario, self.task)

    @torch.no_grad()
    def at_embedding(self, embedding: Tensor, x: Tensor, task: int) -> Tensor:
        """Logits ``[batch, units]`` of the network that any embedding ``[task_embedding_dim]`` makes, to evaluate.

        Args:
            task: whose running statistics and output units it has.
        """
        weights = self.generator(embedding[None])[0]
        return self.target.forward(weights, self._states[task], x)[:, : self.context.scenario.sizes[task]]

    def infer_task(self, x: Tensor) -> Tensor:
        """int64 ``[batch]``: the task each row is taken to belong to, from that row alone."""
        return self._inferred(x)[0]

    def _inferred(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's task ``[batch]``, and that task's logits ``[batch, units]``."""
        return least_entropy(self._all_tasks(x))

    def _all_tasks(self, x: Tensor) -> Iterator[Tensor]:
        """Logits ``[tasks, batch, units]`` of all tasks, in groups that fit into memory."""
        floats = self.target.numel + len(x) * self.target.floats_per_row
        tasks = list(range(len(self.embeddings)))
        count = max(1, EVALUATION_NUMBERS // floats)
        for first in range(0, len(tasks), count):
            yield self._logits(tasks[first : first + count], x)

    def _logits(self, tasks: Sequence[int], x: Tensor) -> Tensor:
        """Logits ``[tasks, batch, units]``, minus infinity at units that a task does not have."""
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
        return self.protected.parameter_count()

    def state_bytes(self) -> int:
        return super().state_bytes() + self.protected.held_bytes()

    def compression_ratio(self) -> float:
        """Trainable weights, all task embeddings included, over the weights of one target network."""
        return self.parameter_count() / self.target.numel

    def measures(self) -> dict[str, float]:
        """``compression_ratio``, and ``target_parameters``: the weights of one generated network."""
        return {"compression_ratio": self.compression_ratio(), "target_parameters": self.target.numel}

    def state_dict(self) -> dict[str, Any]:
        return {**self.protected.state_dict(), "states": list(self._states)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.protected.load_state_dict(state)
        for own, stored in zip(self._states, state["states"], strict=True):
            for name, buffer in own.items():
                buffer.copy_(stored[name])
        self._generated.clear()
