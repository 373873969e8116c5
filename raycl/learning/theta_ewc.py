"""Online EWC on the weights theta of a hypernetwork: a quadratic pull in place of the output regulariser, or beside it.

The control of von Oswald et al., "Continual learning with hypernetworks", ICLR 2020 (arXiv 1906.00695), appendix: each
task has an embedding of its own, and theta, chunk embeddings included, is held by online EWC (Schwarz et al. 2018,
arXiv 1805.06370):

    L = L_t + penalty / 2 * sum F (theta - theta_(t-1))^2,    F <- online_decay * F + F_t

F_t is the Fisher information of theta at the task's own embedding: the mean over examples of the squared gradient of
the log-likelihood, through the generated network. Whoever owns the target says what the likelihood is, of labels or of
real numbers, by its gradients with respect to generated weights; the way from there to theta is the same for all.
Embeddings are not held: nothing but their own task moves them. A lookahead of the output regulariser does not see the
pull, which is added after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.learning.fisher import FisherLabels
from raycl.learning.per_example import BLOCK_NUMBERS
from raycl.learning.quadratic import PROXIMAL, PenaltyStep, Quadratic, StepSizes, Strength, require_finite
from raycl.models.hypernetwork import WeightGenerator
from raycl.spec.needs import Idle
from raycl.spec.options import Count, Fraction, Later, Options

THETA_EWC = ("penalty", "penalty_step", "online_decay", "fisher", "fisher_examples")
"""The options of :class:`ThetaEWCOptions`."""


class ThetaEWCOptions(Options):
    """Strength of the pull, and what its importances are taken from."""

    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(THETA_EWC[1:], "with penalty: 0 theta is not held", lambda at: not at.options.penalty),
    )

    penalty: Annotated[Strength, Later()] = Field(
        0.0, description="strength of online EWC on theta, beside beta, or with beta: 0 in its place; 0: none"
    )
    penalty_step: PenaltyStep = "gradient"
    online_decay: Annotated[Fraction, Later()] = Field(
        1.0, description="what is kept of theta's importances at each task"
    )
    fisher: Annotated[FisherLabels, Later()] = Field(
        "empirical", description="labels of theta's importances: the true one, one drawn, or expected over all"
    )
    fisher_examples: Annotated[Count | None, Later()] = Field(
        None, description="training examples per task for them, drawn at random; default: all"
    )


class ThetaEWC:
    """Importances and anchors of theta. The order of one update is :meth:`before_update`, the optimiser's step,
    :meth:`after_update`; without a penalty all do nothing.

    Args:
        generator: whose parameters are held.
        optimizers: which step them.
    """

    def __init__(self, generator: WeightGenerator, options: ThetaEWCOptions, optimizers: StepSizes) -> None:
        self._generator = generator
        self._options = options
        self._optimizers = optimizers
        self.past = Quadratic()

    @property
    def holds(self) -> bool:
        """Whether theta is held once a task has ended."""
        return self._options.penalty > 0

    def before_update(self) -> None:
        """Add the gradient of the pull to those that are there."""
        if self.pulls("gradient"):
            self.past.add_gradients(self._generator.theta, self._options.penalty)

    def after_update(self) -> None:
        """Take the proximal step of the pull."""
        if self.pulls("proximal"):
            self.past.pull(self._generator.theta, self._options.penalty, self._optimizers)

    def pulls(self, step: PenaltyStep) -> bool:
        """Whether there is a pull, followed in this way."""
        return bool(self.holds and self.past.importance) and self._options.penalty_step == step

    def remedy(self, otherwise: str) -> str:
        """What helps where parameters do not stay finite."""
        return f"{otherwise}, or {PROXIMAL}" if self.pulls("gradient") else otherwise

    def end(self, embedding: Tensor, gradients: Iterable[Tensor], examples: int, subject: str) -> None:
        """Add the importances of a task, and pull towards where it ends.

        Args:
            embedding: the task's own, ``[embedding_dim]``.
            gradients: blocks ``[rows, numel]``, each row the gradient of one example's log-likelihood by the weights
                that the generator makes of the embedding; of an expectation over labels an example has several, each
                times the root of its label's probability.
            examples: that the sum of squares is divided by.
            subject: whose importances they are, for messages.

        Raises:
            MethodError: an importance is not finite.
        """
        sums = squared_gradients(self._generator, embedding, gradients)
        fisher = {name: total / examples for name, total in sums.items()}
        require_finite(fisher, subject, self._options.penalty, self._options.penalty_step)
        self.past.replace(fisher, self._generator.theta, self._options.online_decay)

    def state_dict(self) -> dict[str, Any]:
        """Empty as long as there are no importances."""
        return {"theta_ewc": self.past.state_dict()} if self.past.importance else {}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore :meth:`state_dict`, which may stand beside other keys."""
        if "theta_ewc" in state:
            self.past.load_state_dict(state["theta_ewc"], device)


def squared_gradients(generator: WeightGenerator, embedding: Tensor, gradients: Iterable[Tensor]) -> dict[str, Tensor]:
    """Squares of the gradients by theta, summed over rows, by name of theta's parts.

    The last layer's have a closed form: a chunk's rows of weights are its features times the layer, so that a row's
    gradient by the layer is a product with the features. What is before it takes as many products with the Jacobian of
    the features, which is that of a few rows through a small network.

    Args:
        gradients: blocks ``[rows, numel]``, by the weights that the embedding makes.
    """
    theta: dict[str, nn.Parameter] = generator.theta
    sums = {name: torch.zeros_like(parameter) for name, parameter in theta.items()}
    inner = {name: parameter for name, parameter in theta.items() if name not in ("weight", "bias")}
    surplus = generator.num_chunks * generator.chunk_size - generator.numel
    with torch.enable_grad():
        features = generator.features(theta, embedding.detach()[None])[0]  # [num_chunks, d]
    last, fixed = theta["weight"].detach(), features.detach()
    block = max(1, BLOCK_NUMBERS // last.numel())
    for rows in (part for given in gradients for part in given.split(block)):
        chunks = nn.functional.pad(rows, (0, surplus)).view(len(rows), generator.num_chunks, generator.chunk_size)
        sums["bias"] += chunks.sum(1).square().sum(0)
        sums["weight"] += (chunks.mT @ fixed).square_().sum(0)
        found = torch.autograd.grad(
            features, list(inner.values()), chunks @ last, retain_graph=True, is_grads_batched=True
        )
        for name, gradient in zip(inner, found, strict=True):
            sums[name] += gradient.square().sum(0)
    return sums
