"""A hypernetwork that learns what to make for one task after another, and keeps what it makes for the old ones.

von Oswald, Henning, Grewe and Sacramento, "Continual learning with hypernetworks", ICLR 2020 (arXiv 1906.00695),
section 2: weights theta (chunk embeddings included) shared by all tasks and protected by the output regulariser (eq. 2)
with one step of lookahead, and a private embedding per task that is learned during its task only. What the generated
weights are for, a classifier's or a decoder's, is the business of whoever owns this.

``old_embeddings: learned`` is the authors' ``continue_emb_training``: embeddings of old tasks go on learning, through
the regulariser alone, whose targets stay what theta and they made when the task began. They are parameters of theta's
optimiser, so that the lookahead moves them too: by the step of a gradient of zero, which past gradients make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.errors import Problem, SpecError
from raycl.learning.fused import FusedOptimizer
from raycl.learning.lookahead import lookahead
from raycl.learning.output_regulariser import OutputRegulariser
from raycl.learning.precision import exactly
from raycl.models.hypernetwork import Activation, WeightGenerator
from raycl.spec.needs import Idle
from raycl.spec.options import Count, Dropped, Later, NonNegative, Options, Width, Widths

GeneratorActivation = Annotated[Activation, Field(description="after each hidden layer of the generator")]


PROTECTION = ("beta", "regulariser", "sampled_tasks", "lookahead", "old_embeddings")
"""Options of :class:`GeneratorOptions` that say how old tasks are held."""


class GeneratorOptions(Options):
    """The generator network and its protection."""

    search_space: ClassVar[dict[str, Any]] = {
        "beta": {"loguniform": [1e-4, 10]},
        "task_embedding_dim": {"randint": [8, 129]},
        "chunk_embedding_dim": {"randint": [8, 129]},
        "chunk_size": {"lograndint": [500, 100_000]},
        "hidden": {"choice": [[10, 10], [25, 25], [50, 50]]},
    }

    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(
            ("chunk_size", "chunk_embedding_dim", "chunk_embedding_std"),
            "there are no chunks",
            lambda at: not at.options.chunked,
        ),
        Idle(("dropout",), "the generator has no hidden units", lambda at: not at.options.hidden),
        Idle(
            ("sampled_tasks",), "only regulariser: sampled draws tasks", lambda at: at.options.regulariser != "sampled"
        ),
        Idle(
            ("old_embeddings",), "they learn through the regulariser, whose beta is 0", lambda at: not at.options.beta
        ),
    )

    beta: NonNegative = Field(0.01, description="weight of the output regulariser, a sum over all weights of a task")
    task_embedding_dim: Width = Field(96, description="length of a task's embedding, which the generator takes in")
    chunked: bool = Field(True, description="generate the weights chunk by chunk; or all at once (full hypernetwork)")
    chunk_embedding_dim: Width = Field(96, description="length of a chunk's embedding, which it takes in beside")
    chunk_size: Count = Field(42_000, description="weights per chunk, at most those of the target")
    hidden: Widths = Field((10, 10), description="units per layer of the generator")
    activation: GeneratorActivation = "relu"
    lookahead: Literal["detached", "differentiated", "off"] = Field(
        "detached", description="whether the regulariser looks at the weights after the task's own step, and how"
    )
    regulariser: Literal["gram", "direct", "sampled"] = Field(
        "gram", description="all old tasks by Gram matrices or network by network; or some at random in every update"
    )
    sampled_tasks: Count = Field(1, description="old tasks per update where the regulariser is sampled")
    init: Annotated[Literal["xavier", "hyperfan"], Later()] = Field(
        "xavier",
        description="how the generator starts: as in the authors' experiments, or so that generated weights have the "
        "variance of a direct start (Chang et al. 2020)",
    )
    task_embedding_std: Annotated[NonNegative, Later()] = Field(1.0, description="of a task embedding's start")
    chunk_embedding_std: Annotated[NonNegative, Later()] = Field(1.0, description="of a chunk embedding's start")
    new_embedding: Annotated[Literal["drawn", "last"], Later()] = Field(
        "drawn", description="where a task's embedding starts: anew, or at that of the task before"
    )
    old_embeddings: Annotated[Literal["fixed", "learned"], Later()] = Field(
        "fixed", description="whether embeddings of old tasks go on learning through the regulariser, as theta does"
    )
    embedding_noise: Annotated[NonNegative, Later()] = Field(
        0.0, description="deviation of what is added to the embedding in every update of its task"
    )
    dropout: Annotated[Dropped, Later()] = Field(
        0.0, description="of the generator's hidden units, for the task's loss; what is kept of old tasks is whole"
    )


StartAndDraws = tuple[torch.Generator, torch.Generator]
"""Generators of initial values, and of what is drawn afterwards."""


class ProtectedGenerator:
    """Theta, the embeddings of all tasks, and what holds the old ones while the newest is learned.

    Args:
        sizes: numbers of weights of the target's tensors, in order.
        variances: with which they would start by themselves, for ``init: hyperfan``; None where nothing says so.
        random: draws initial values and embeddings; draws sampled tasks.

    Attributes:
        generator: h(e; theta).
        embeddings: one per task; the last one is the current task's.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        variances: Sequence[float] | None,
        options: GeneratorOptions,
        random: StartAndDraws,
        device: torch.device,
    ) -> None:
        if options.init == "hyperfan" and variances is None:
            rule = (
                "hyperfan draws layers for ReLUs, and the scales of a norm start at 1; use xavier, or model.norm: none"
            )
            raise SpecError([Problem("init", rule, "hyperfan")])
        self.options = options
        self._start, self._random = random
        self._device = device
        generator = WeightGenerator(
            sizes,
            options.task_embedding_dim,
            options.hidden,
            options.activation,
            self._start,
            options.chunk_size if options.chunked else None,
            options.chunk_embedding_dim,
            options.task_embedding_std,
            options.chunk_embedding_std,
            variances if options.init == "hyperfan" else None,
        )
        self.generator = generator.to(device)
        self.embeddings: list[nn.Parameter] = []
        self._regulariser: OutputRegulariser | None = None

    def grow(self) -> None:
        """Make the next task's embedding."""
        options = self.options
        if options.new_embedding == "last" and self.embeddings:
            self.embeddings.append(nn.Parameter(self.embeddings[-1].detach().clone()))
            return
        embedding = torch.randn(options.task_embedding_dim, generator=self._start)
        embedding = embedding if options.task_embedding_std == 1 else embedding * options.task_embedding_std
        self.embeddings.append(nn.Parameter(embedding.to(self._device)))

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """What the current task trains, by optimiser; embeddings of old tasks beside theta, where they learn."""
        theta = [*self.generator.parameters(), *self._learned_embeddings]
        return {"theta": theta, "embedding": [self.embeddings[-1]]}

    @property
    def _learned_embeddings(self) -> list[nn.Parameter]:
        """Those of old tasks that go on learning."""
        learn = self.options.old_embeddings == "learned" and self.options.beta > 0
        return self.embeddings[:-1] if learn else []

    # -- what is generated -------------------------------------------------------------------------------------

    def current(self) -> Tensor:
        """The current task's weights ``[numel]`` as an update takes them, with their graph."""
        embedding, theta, options = self.embeddings[-1][None], self.generator.theta, self.options
        if options.embedding_noise:
            noise = torch.randn(embedding.shape, generator=self._random).to(self._device)
            embedding = embedding + options.embedding_noise * noise
        with exactly(self._device):
            return self.generator.assemble(theta, self.generator.features(theta, embedding, options.dropout))[0]

    @torch.no_grad()
    def weights(self, tasks: Sequence[int]) -> Tensor:
        """Weights ``[tasks, numel]`` as theta stands."""
        with exactly(self._device):
            weights: Tensor = self.generator(torch.stack([self.embeddings[task] for task in tasks]))
        return weights

    # -- learning ----------------------------------------------------------------------------------------------

    def protect(self, excluded: Sequence[Sequence[slice]]) -> None:
        """Hold what is generated for all tasks but the current one where theta stands now.

        Args:
            excluded: for each old task, where in its flat weights nothing is protected.
        """
        self._regulariser = None
        old = [embedding.detach() for embedding in self.embeddings[:-1]]
        if not old or not self.options.beta:
            return
        kind = self.options.regulariser
        self._regulariser = OutputRegulariser(
            self.generator,
            torch.stack(old),
            excluded,
            form="direct" if kind == "direct" else "gram",
            cache=kind != "sampled",  # an update looks at few tasks then
        )

    def release(self) -> None:
        """Hold nothing, and forget where theta stood."""
        self._regulariser = None

    def backward(
        self, loss: Tensor, optimizer: FusedOptimizer, clip: float, others: Sequence[nn.Parameter] = ()
    ) -> Tensor | None:
        """Set the gradients of a task's loss and of the regulariser: of :meth:`parameters` and ``others``.

        Args:
            optimizer: theta's, in whose next step the regulariser looks ahead.
            clip: largest norm of theta's gradient in that step; 0 clips nothing.
            others: further parameters that the loss depends on and the regulariser does not.

        Returns:
            beta times the regulariser; None where nothing is held.
        """
        theta, old = self.generator.theta, self._learned_embeddings
        differentiated = self._regulariser is not None and self.options.lookahead == "differentiated"
        parameters = [*theta.values(), self.embeddings[-1], *others]
        gradients = torch.autograd.grad(loss, parameters, create_graph=differentiated)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.detach()
        if self._regulariser is None:
            return None
        for embedding in old:  # the task's loss knows nothing of them
            embedding.grad = None
        ahead: Mapping[nn.Parameter, Tensor] = {parameter: parameter for parameter in (*theta.values(), *old)}
        if self.options.lookahead != "off":
            own = dict(zip(theta.values(), gradients[: len(theta)], strict=True))
            ahead = lookahead(optimizer, own | {embedding: torch.zeros_like(embedding) for embedding in old}, clip)
        moved = {name: ahead[parameter] for name, parameter in theta.items()}
        embeddings = torch.stack([ahead[embedding] for embedding in old]) if old else None
        value = self.options.beta * self._regulariser(moved, self._old_tasks(), embeddings)
        value.backward()  # adds to the gradients of the task's loss
        return value

    def _old_tasks(self) -> Tensor | None:
        """The old tasks that the regulariser looks at in this update; None: all."""
        old = len(self.embeddings) - 1
        if self.options.regulariser != "sampled" or self.options.sampled_tasks >= old:
            return None
        chosen = torch.randperm(old, generator=self._random)[: self.options.sampled_tasks]
        return chosen.to(self._device)

    # -- size and state ----------------------------------------------------------------------------------------

    def parameter_count(self) -> int:
        """Numbers in theta and in all embeddings."""
        own = sum(parameter.numel() for parameter in self.generator.parameters())
        return own + sum(embedding.numel() for embedding in self.embeddings)

    def held_bytes(self) -> int:
        """Bytes of theta, and of old embeddings that learn, as they were when the task began: made anew by every task,
        and charged all the same."""
        if len(self.embeddings) < 2 or not self.options.beta:
            return 0
        held = [*self.generator.parameters(), *self._learned_embeddings]
        return sum(parameter.numel() * parameter.element_size() for parameter in held)

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self.generator.state_dict(),
            "embeddings": [embedding.detach() for embedding in self.embeddings],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        with torch.no_grad():
            for embedding, value in zip(self.embeddings, state["embeddings"], strict=True):
                embedding.copy_(value)
