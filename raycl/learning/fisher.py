"""The diagonal of the Fisher information of a classifier, per example and vectorised.

For one example, ``exact``: F_k = sum over y of p(y|x) (d log p(y|x) / d theta_k)^2; ``sampled``: the square at one
y ~ p(y|x); ``empirical``: the square at the true label. The mean over examples is taken of squares, never the square of
a mean (:mod:`raycl.learning.per_example`). ``exact`` takes a backward pass for every active unit; perceptrons, whose
errors of all units have a closed form (:mod:`raycl.learning.perceptron`), take none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from raycl.learning.layer_gradients import LayerCall
from raycl.learning.per_example import add_linear, gradients_of_rows, mean_over_rows, mean_power_of_gradients
from raycl.learning.perceptron import is_perceptron, squared_errors
from raycl.spec.revisions import Change
from raycl.streams.task import Batch

FisherLabels = Literal["exact", "sampled", "empirical"]
FISHER_BATCH = 128
"""Rows that go through the network at once; every row counts by itself, however many there are."""

CLOSED_FORM = Change("fisher", 2, lambda at: getattr(at.options, "fisher", None) == "exact")
"""Of methods with an option ``fisher``: in perceptrons ``exact`` sums in another order than by backward passes."""


def diagonal_fisher(
    network: nn.Module,
    batches: Iterable[Batch],
    active: Callable[[Batch], Tensor],
    labels: FisherLabels,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The mean over all rows of the squared gradients of log p, in evaluation mode.

    Args:
        network: float ``[batch, ...]`` -> logits ``[batch, outputs]``; rows must not depend on one another.
        batches: their size bounds the memory, and moves nothing else.
        active: bool ``[batch, outputs]``, the units inside the softmax: those of training.
        generator: draws the labels of ``sampled``.

    Returns:
        One tensor per trainable parameter, by name, in the parameter's shape.

    Raises:
        MethodError: there are no rows, or a trainable parameter is used outside the layer that owns it.
    """

    if labels == "exact" and is_perceptron(network):

        def add(sums: dict[str, Tensor], calls: list[LayerCall], logits: Tensor, batch: Batch) -> None:
            p = _probabilities(logits, active(batch))
            for call, squares in zip(calls, squared_errors(calls, p), strict=True):
                add_linear(sums, call, squares, "square")

        with torch.no_grad():
            return mean_over_rows(network, batches, add)

    def gradients(logits: Tensor, batch: Batch) -> Iterator[Tensor]:
        return _log_likelihood_gradients(logits, batch.y, active(batch), labels, generator)

    return mean_power_of_gradients(network, batches, gradients, "square")


def likelihood_gradients(
    network: nn.Module,
    batches: Iterable[Batch],
    active: Callable[[Batch], Tensor],
    labels: FisherLabels,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """What :func:`diagonal_fisher` squares, row by row: gradients of log p ``[rows, numel]``, a few rows at a time.

    Args: those of :func:`diagonal_fisher`. A row of ``exact`` has one gradient for each active unit, times the root of
        its probability.

    Raises:
        MethodError: a trainable parameter is used outside the layer that owns it.
    """

    def gradients(logits: Tensor, batch: Batch) -> Iterator[Tensor]:
        return _log_likelihood_gradients(logits, batch.y, active(batch), labels, generator)

    return gradients_of_rows(network, batches, gradients)


def _probabilities(logits: Tensor, active: Tensor) -> Tensor:
    return logits.masked_fill(~active, float("-inf")).softmax(1)


def _log_likelihood_gradients(
    logits: Tensor, y: Tensor, active: Tensor, labels: FisherLabels, generator: torch.Generator
) -> Iterator[Tensor]:
    """Gradients ``[batch, outputs]`` of log p by the logits, e_y - p; for ``exact`` one per class, times sqrt(p_y)."""
    p = _probabilities(logits, active)
    if labels == "exact":
        for unit in active.any(0).nonzero().flatten().tolist():
            gradient = -p
            gradient[:, unit] += 1
            yield gradient * p[:, unit, None].sqrt()
        return
    if labels == "sampled":
        y = torch.multinomial(p.cpu(), 1, generator=generator).flatten().to(y.device)
    yield nn.functional.one_hot(y, logits.shape[1]) - p
