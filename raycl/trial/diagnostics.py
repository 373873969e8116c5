"""Diagnostics of plasticity: what a network still has to learn with, on rows of a task that it is about to learn.

After Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024, whose code looks at 2,000 rows
of each task before it is learned. They are told as numbers of the task's row: those of the first task are of the
untrained network.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from raycl.models.network import Network, frozen_statistics
from raycl.spec.evaluation import Diagnostic
from raycl.strategies.base import Strategy
from raycl.streams.task import Batch
from raycl.trial.loading import RowPool

ROWS_LOOKED_AT = 2000
"""Of the task's training data, evenly spaced over them."""
ROWS_AT_ONCE = 250
"""That pass through the network together."""
STABLE_SHARE = 0.99


class Diagnosis:
    """A strategy's network as it stands, on rows of one task; nothing in it changes.

    Hidden layers are those that end in a ``nn.ReLU`` of the backbone; a channel of a convolution is a unit.

    Args:
        batch: not augmented.
    """

    def __init__(self, strategy: Strategy, batch: Batch) -> None:
        self._strategy = strategy
        self._parts = [batch[start : start + ROWS_AT_ONCE] for start in range(0, len(batch), ROWS_AT_ONCE)]
        passes = [_hidden(strategy.network, part.x) for part in self._parts]
        layers = list(zip(*passes, strict=True))
        self._activations = [torch.cat([means for means, _ in layer]) for layer in layers]
        self._dead = [torch.stack([dead for _, dead in layer]).all(0) for layer in layers]

    def told(self, asked: Sequence[Diagnostic]) -> dict[str, float]:
        """Those of the diagnostics that mean something here."""
        found = {name: getattr(self, name)() for name in asked}
        return {name: value for name, value in found.items() if value is not None}

    def dead_units(self) -> float | None:
        """Share of the hidden units whose output is 0 on all rows."""
        return float(torch.cat(self._dead).float().mean()) if self._dead else None

    def effective_rank(self) -> float | None:
        """Effective rank of the activations: exp(H), H the entropy of the singular values over their sum (Roy and
        Vetterli 2007); mean over hidden layers."""
        return _mean([effective_rank(values) for values in self._singular_values])

    def stable_rank(self) -> float | None:
        """Stable rank of the activations (Dohare et al. 2024): how many singular values it takes for 99 % of the sum of
        their squares (Yang et al. 2019); mean over hidden layers."""
        return _mean([stable_rank(values) for values in self._singular_values])

    def weight_magnitude(self) -> float:
        """Mean absolute weight of the linear and convolutional layers, the head included and biases left out."""
        network = self._strategy.network
        layers = [layer for layer in network.backbone.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
        weights = [layer.weight.detach().flatten() for layer in (*layers, network.head)]
        return float(torch.cat(weights).abs().mean())

    def gradient_norm(self) -> float:
        """Euclidean norm of the gradient of the rows' mean cross-entropy by all weights and biases that learn."""
        strategy = self._strategy
        parameters = [p for p in strategy.network.parameters() if p.requires_grad]
        total = [torch.zeros_like(parameter) for parameter in parameters]
        rows = sum(map(len, self._parts))
        with frozen_statistics(strategy.network), torch.enable_grad():
            for part in self._parts:
                loss = strategy.cross_entropy(strategy.network(part.x), part) * (len(part) / rows)
                for sum_of, gradient in zip(
                    total, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
                ):
                    if gradient is not None:
                        sum_of += gradient
        return float(torch.cat([gradient.flatten() for gradient in total]).norm())

    @cached_property
    def _singular_values(self) -> list[Tensor]:
        """Of the activations of each hidden layer, ``[rows, units]``, in float64."""
        return [torch.linalg.svdvals(layer.double()) for layer in self._activations]


def _hidden(network: Network, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What each hidden layer gives for some rows, without the positions of a convolution, which would fill the memory:
    means over them ``[rows, units]``, and the units ``[units]`` that give 0 everywhere."""
    given: list[tuple[Tensor, Tensor]] = []

    def listen(module: nn.Module, inputs: object, output: Tensor) -> None:
        positions = output.detach().reshape(*output.shape[:2], -1)
        given.append((positions.mean(2), (positions == 0).all(2).all(0)))

    hooks = [layer.register_forward_hook(listen) for layer in network.backbone.modules() if isinstance(layer, nn.ReLU)]
    try:
        with frozen_statistics(network), torch.no_grad():
            network.backbone(x)
    finally:
        for hook in hooks:
            hook.remove()
    return given


def effective_rank(singular_values: Tensor) -> float:
    """exp(H) of singular values ``[units]``; 0 where all of them are 0."""
    share = singular_values / singular_values.sum()
    return float(torch.special.entr(share).sum().exp()) if bool(singular_values.any()) else 0.0


def stable_rank(singular_values: Tensor) -> float:
    """How many of them, largest first, it takes for 99 % of the sum of squares; 0 where all of them are 0."""
    squares = singular_values.square()
    if not bool(squares.any()):
        return 0.0
    return float((squares.cumsum(0) / squares.sum() < STABLE_SHARE).sum() + 1)


def diagnose(strategy: Strategy, pool: RowPool, asked: Sequence[Diagnostic]) -> dict[str, float]:
    """The diagnostics asked for, before a task is learned whose training rows are ``pool``.

    Only those that mean something for the method and its model are there.
    """
    if not strategy.diagnosable:
        return {}
    rows = min(ROWS_LOOKED_AT, len(pool))
    index = torch.arange(rows) * len(pool) // rows
    return Diagnosis(strategy, pool.gather(index, augment=False)).told(asked)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
