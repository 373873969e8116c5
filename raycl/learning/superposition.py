"""Which task is it? Asked of the weights of all tasks at once, by a gradient with respect to how they are mixed.

Wortsman, Ramanujan et al., "Supermasks in superposition", NeurIPS 2020 (arXiv 2006.14769), section 3.3. Tasks' networks
f(x; w_i) are mixed into one, f(x; sum alpha_i w_i). The task sought is the one to which alpha should move so that the
mixture becomes more certain: argmax of -dH/dalpha_i, H the entropy of its softmax, at alpha_i = 1/T (one shot).
``binary`` drops the worse half of the tasks again and again, and mixes only those that are left.

A decision is made from one row or from several that are known to belong together. All decisions are made side by side;
none sees the rows of another.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

DIRECTIONS = 16
"""Tasks whose activations are held side by side."""

MaskedForward = Callable[[Tensor, Tensor], Tensor]
"""Weights ``[numel]`` and rows ``[rows, *]`` -> logits ``[rows, units]``."""

Objective = Callable[[Tensor], Tensor]
"""Logits ``[rows, units]`` -> what should become small, ``[]``."""

Vectors = Callable[[], Iterable[Tensor]]
"""The weights of all tasks, ``[tasks of the group, numel]`` group after group, so that memory is bounded."""


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax over all units (in nats), the mean over the rows."""
    log_probability = logits.log_softmax(1)
    return -(log_probability.exp() * log_probability).sum(1).mean()


def superfluous(real: int) -> Objective:
    """G: the log-sum-exp of all logits, whose gradient passes through the units from ``real`` on only.

    Training has pushed these units down, as no label names them; under another task's mask they are not down.
    """

    def objective(logits: Tensor) -> Tensor:
        return torch.cat([logits[:, :real].detach(), logits[:, real:]], dim=1).logsumexp(1).mean()

    return objective


@cache
def warm_up() -> None:
    """Take a derivative in a direction, once in a process, before a clock runs.

    With the first one torch imports its table of decompositions, and ``torch._dynamo``: seconds that are no trial's.
    """
    x = torch.ones(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its own use of torch.jit
        jvp(lambda value: 2 * value, (x,), (x,))


def alpha_gradient(alpha: Tensor, vectors: Vectors, forward: MaskedForward, objective: Objective, x: Tensor) -> Tensor:
    """dH/dalpha of the mixture, a decision at a time.

    Where all decisions share one mixture, a pass forward in the direction of each task's weights gives the slopes of
    all of them at once; mixtures of their own need the gradient of each with respect to all weights.

    Args:
        alpha: ``[tasks]``, the same for all decisions, or ``[decisions, tasks]``.
        x: ``[decisions, rows, *]``.

    Returns:
        ``[decisions, tasks]``.
    """
    mixed = _mixed(alpha, vectors())
    if alpha.dim() > 1:
        by_weight: Tensor = vmap(grad(lambda weights, rows: objective(forward(weights, rows))))(mixed, x)
        return torch.cat([by_weight @ group.T for group in vectors()], dim=1)

    def objectives(weights: Tensor) -> Tensor:
        return vmap(objective)(forward(weights, x.flatten(0, 1)).unflatten(0, x.shape[:2]))

    slopes = vmap(lambda direction: jvp(objectives, (mixed,), (direction,))[1], chunk_size=DIRECTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its own use of torch.jit
        return torch.cat([slopes(group) for group in vectors()]).T


def _mixed(alpha: Tensor, vectors: Iterable[Tensor]) -> Tensor:
    """sum alpha_i w_i, ``[numel]`` or ``[decisions, numel]``."""
    groups = iter(vectors)
    group = next(groups)
    first = len(group)
    mixed = alpha[..., :first] @ group
    for group in groups:
        mixed += alpha[..., first : first + len(group)] @ group
        first += len(group)
    return mixed


def one_shot(tasks: int, vectors: Vectors, forward: MaskedForward, objective: Objective, x: Tensor) -> Tensor:
    """The task of each decision, int64 ``[decisions]``, from one gradient at equal shares."""
    alpha = x.new_full((tasks,), 1 / tasks)
    return alpha_gradient(alpha, vectors, forward, objective, x).argmin(1)


def binary(tasks: int, vectors: Vectors, forward: MaskedForward, objective: Objective, x: Tensor) -> Tensor:
    """The task of each decision, int64 ``[decisions]``, from ceil(log2(tasks)) gradients of ever fewer tasks."""
    alpha = x.new_full((len(x), tasks), 1 / tasks)
    while tasks > 1:
        slope = alpha_gradient(alpha, vectors, forward, objective, x).masked_fill(alpha == 0, float("inf"))
        tasks = -(-tasks // 2)
        left = slope.topk(tasks, largest=False).indices
        alpha = torch.zeros_like(alpha).scatter_(1, left, 1 / tasks)
    return alpha.argmax(1)
