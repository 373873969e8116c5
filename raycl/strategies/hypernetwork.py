"""Task-conditioned hypernetworks: a generator network remembers the weights of every task's network.

von Oswald, Henning, Grewe and Sacramento, "Continual learning with hypernetworks", ICLR 2020 (arXiv 1906.00695):
whole or chunked generator (section 2.1, appendix C), output regulariser with one step of lookahead (eq. 2), private
task embeddings, and task inference by entropy where the id is hidden (HNET+ENT, section 2.2). Defaults are the
settings of the authors' Split MNIST experiments. Theta (chunk embeddings included) is shared and protected; a task's
embedding is learned during its task only.

Departures:
- Tasks arrive without their number being known, so a weight set has one head, that of its own task, as wide as the
  stream's largest task. The authors generate the heads of all tasks in every weight set; training, regulariser and test
  of a task then use its own head all the same. D no longer grows with the number of tasks (their figures of the domain
  scenario hold for all three: Split MNIST D = 475,202, ratio 0.98), and beta acts on the own head only.
- The regulariser is evaluated from Gram matrices (exact; ``regulariser: direct`` builds every old network).
- Running statistics of batch normalisation are kept per task and counted in the state's bytes, not in the ratio.
- Least entropy is found in log space, where saturated predictions still differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.errors import Problem, SpecError
from raycl.learning.lookahead import lookahead
from raycl.learning.output_regulariser import OutputRegulariser
from raycl.learning.task_inference import least_entropy
from raycl.models.hypernetwork import Activation, Theta, WeightGenerator
from raycl.models.target import State, TargetNetwork
from raycl.spec.options import Count, NonNegative
from raycl.strategies.base import Context, Losses, Phase, Position, Strategy, StrategyConfig, TaskData, Trainable
from raycl.streams.task import Batch

WORKING_FLOATS = 2**26
"""Numbers held at once by evaluation (256 MB): generated weights kept, and networks run side by side."""


class HypernetworkConfig(StrategyConfig):
    """The generator network and its protection."""

    search_space: ClassVar[dict[str, Any]] = {
        "beta": {"loguniform": [1e-4, 10]},
        "task_embedding_dim": {"randint": [8, 129]},
        "chunk_embedding_dim": {"randint": [8, 129]},
        "chunk_size": {"lograndint": [500, 100_000]},
    }

    beta: NonNegative = Field(0.01, description="weight of the output regulariser, a sum over all weights of a task")
    task_embedding_dim: Count = 96
    chunked: bool = Field(True, description="generate the weights chunk by chunk; or all at once (full hypernetwork)")
    chunk_embedding_dim: Count = 96
    chunk_size: Count = Field(42_000, description="weights per chunk, at most those of the target")
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field((10, 10), description="units per layer of the generator")
    activation: Activation = "relu"
    lookahead: Literal["detached", "differentiated", "off"] = Field(
        "detached", description="whether the regulariser looks at the weights after the task's own step, and how"
    )
    regulariser: Literal["gram", "direct", "sampled"] = Field(
        "gram", description="all old tasks by Gram matrices or network by network; or some at random in every update"
    )
    sampled_tasks: Count = Field(1, description="old tasks per update where the regulariser is sampled")
    task_inference: Literal["entropy"] = Field("entropy", description="how a hidden task id is found")


class Hypernetwork(Strategy):
    """Learn the weights of each task's network through a shared generator."""

    Config = HypernetworkConfig
    paper: ClassVar[str] = "von Oswald et al. 2020, Continual learning with hypernetworks (arXiv 1906.00695)"
    zero_shot: ClassVar[bool] = False
    pretrained: ClassVar[bool] = False

    def __init__(self, config: HypernetworkConfig, context: Context) -> None:
        super().__init__(config, context)
        scenario = context.scenario
        if not scenario.shared and scenario.active_logits in ("seen", "all"):
            rule = "a generated network has its own task's head only; use auto, own or current"
            raise SpecError([Problem("training.active_logits", rule, scenario.active_logits)])
        self.config: HypernetworkConfig = config
        self._units = max(scenario.sizes)
        self.target = TargetNetwork(self.network, self._units, context.image_shape)
        self.network = self.target.network
        self._random = context.generator("hypernetwork")
        self.generator = WeightGenerator(
            [shape.numel() for shape in self.target.shapes.values()],
            config.task_embedding_dim,
            config.hidden,
            config.activation,
            self._random,
            config.chunk_size if config.chunked else None,
            config.chunk_embedding_dim,
        ).to(context.device)
        self.embeddings: list[nn.Parameter] = []
        self._states: list[State] = []
        self._regulariser: OutputRegulariser | None = None
        self._generated: dict[int, Tensor] = {}

    # -- growth and optimisation -------------------------------------------------------------------------------

    def grow(self, task: int) -> None:
        self.task = task
        embedding = torch.randn(self.config.task_embedding_dim, generator=self._random)
        self.embeddings.append(nn.Parameter(embedding.to(self.context.device)))
        self._states.append(self.target.new_state(self.context.device))

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        return {
            "theta": Trainable.of(self.generator.parameters()),
            "embedding": Trainable.of([self.embeddings[task]]),
        }

    def phases(self, task: int) -> Sequence[Phase]:
        return (Phase("train", self.length(), new_optimizers=True),)

    def begin_task(self, task: int, data: TaskData) -> None:
        self._regulariser = None
        if task and self.config.beta:
            sampled = self.config.regulariser == "sampled"
            self._regulariser = OutputRegulariser(
                self.generator,
                torch.stack([embedding.detach() for embedding in self.embeddings[:task]]),
                [self.target.beyond(self.context.scenario.sizes[old]) for old in range(task)],
                "direct" if self.config.regulariser == "direct" else "gram",
                cache=not sampled,
            )

    def end_task(self, task: int, data: TaskData) -> None:
        self._regulariser = None

    # -- the update --------------------------------------------------------------------------------------------

    def step(self, batch: Batch, at: Position) -> Losses:
        losses = self.loss(batch)
        theta, embedding = self.generator.theta, self.embeddings[self.task]
        differentiated = self._regulariser is not None and self.config.lookahead == "differentiated"
        parameters = [*theta.values(), embedding]
        gradients = torch.autograd.grad(losses["task"], parameters, create_graph=differentiated)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.detach()
        if self._regulariser is not None:
            ahead = self._ahead(theta, dict(zip(theta.values(), gradients, strict=False)))
            losses["regulariser"] = self.config.beta * self._regulariser(ahead, self._old_tasks())
            losses["regulariser"].backward()
        self.context.optimizers.step()
        self._generated.clear()
        return {name: value.detach() for name, value in losses.items()}

    def loss(self, batch: Batch) -> Losses:
        """Cross-entropy over the own task's units."""
        scenario, task = self.context.scenario, self.task
        weights = self.generator(self.embeddings[task][None])[0]
        logits = self.target.forward(weights, self._states[task], batch.x)[:, : scenario.sizes[task]]
        return {"task": nn.functional.cross_entropy(logits, batch.y - scenario.offset(task))}

    def _ahead(self, theta: Mapping[str, nn.Parameter], gradients: Mapping[nn.Parameter, Tensor]) -> Theta:
        """Theta after the step that the task's loss alone would take."""
        if self.config.lookahead == "off":
            return theta
        ahead = lookahead(self.context.optimizers["theta"], gradients, self.context.training.gradient_clip)
        return {name: ahead[parameter] for name, parameter in theta.items()}

    def _old_tasks(self) -> Tensor | None:
        """The old tasks that the regulariser looks at in this update; None: all."""
        if self.config.regulariser != "sampled" or self.config.sampled_tasks >= self.task:
            return None
        chosen = torch.randperm(self.task, generator=self._random)[: self.config.sampled_tasks]
        return chosen.to(self.context.device)

    # -- prediction --------------------------------------------------------------------------------------------

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        """Logits ``[batch, outputs so far]``: those of one task's units, minus infinity elsewhere."""
        if task is None:
            chosen, logits = least_entropy(self._all_tasks(x))
        else:
            chosen = torch.full((len(x),), task, device=x.device)
            logits = self._logits([task], x)[0]
        return self._placed(chosen, logits)

    def infer_task(self, x: Tensor) -> Tensor:
        """int64 ``[batch]``: the task each row is taken to belong to, from that row alone."""
        return least_entropy(self._all_tasks(x))[0]

    def _all_tasks(self, x: Tensor) -> Iterator[Tensor]:
        """Logits ``[tasks, batch, units]`` of all tasks, in groups that fit into memory."""
        floats = self.target.numel + len(x) * self.target.floats_per_row
        tasks = list(range(len(self.embeddings)))
        count = max(1, WORKING_FLOATS // floats)
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
        with torch.no_grad():
            weights: Tensor = self.generator(self.embeddings[task][None])[0]
        if (len(self._generated) + 1) * self.target.numel <= WORKING_FLOATS:
            self._generated[task] = weights
        return weights

    def _placed(self, chosen: Tensor, logits: Tensor) -> Tensor:
        """Put each row's logits ``[batch, units]`` where its task's output units lie."""
        scenario, rows = self.context.scenario, len(logits)
        outputs = scenario.outputs(self.task)
        offsets = torch.tensor([scenario.offset(task) for task in range(self.task + 1)], device=chosen.device)
        units = offsets[chosen][:, None] + torch.arange(self._units, device=chosen.device)
        placed = logits.new_full((rows, outputs + self._units), float("-inf"))
        return placed.scatter_(1, units, logits)[:, :outputs]

    def active_logits(self) -> str:
        """A generated network has its own task's head only."""
        return "all" if self.context.scenario.shared else "own"

    # -- size and state ----------------------------------------------------------------------------------------

    def parameter_count(self) -> int:
        own = sum(parameter.numel() for parameter in self.generator.parameters())
        return own + sum(embedding.numel() for embedding in self.embeddings)

    def compression_ratio(self) -> float:
        """Trainable weights, all task embeddings included, over the weights of one target network."""
        return self.parameter_count() / self.target.numel

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self.generator.state_dict(),
            "embeddings": [embedding.detach() for embedding in self.embeddings],
            "states": list(self._states),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        with torch.no_grad():
            for embedding, value in zip(self.embeddings, state["embeddings"], strict=True):
                embedding.copy_(value)
            for own, stored in zip(self._states, state["states"], strict=True):
                for name, buffer in own.items():
                    buffer.copy_(stored[name])
        self._generated.clear()
