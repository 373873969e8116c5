"""Diagnostics of plasticity: what a network still has to learn with, on rows of a task that it is about to learn.

After Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024, whose code looks at 2,000 rows
of each task before it is learned. They are told as numbers of the task's row: those of the first task are of the
untrained network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raycl.models.network import frozen_statistics
from raycl.spec.evaluation import Diagnostic
from raycl.strategies.base import Strategy
from raycl.streams.task import Batch
from raycl.trial.loading import RowPool

ROWS_LOOKED_AT = 2000
"""Of the task's training data, evenly spaced over them."""
STABLE_SHARE = 0.99


class Diagnosis:
    """A strategy's network as it stands, on rows of one task; nothing in it changes.

    Hidden layers are those that end in a ``nn.ReLU`` of the backbone; a channel of a convolution is a unit.

    Args:
        batch: not augmented.
    """

    def __init__(self, strategy: Strategy, batch: Batch) -> None:
        self._strategy = strategy
        self._batch = batch
        self._layers: list[Tensor] = []
        """Activations, ``[rows, units, *positions]`` each."""
        hooks = [
            module.register_forward_hook(lambda _module, _inputs, output: self._layers.append(output.detach()))
            for module in strategy.network.backbone.modules()
            if isinstance(module, nn.ReLU)
        ]
        try:
            with frozen_statistics(strategy.network), torch.no_grad():
                strategy.network.backbone(batch.x)
        finally:
            for hook in hooks:
                hook.remove()

    def told(self, asked: Sequence[Diagnostic]) -> dict[str, float]:
        """Those of the diagnostics that mean something here."""
        found = {name: getattr(self, name)() for name in asked}
        return {name: value for name, value in found.items() if value is not None}

    def dead_units(self) -> float | None:
        """Share of the hidden units whose output is 0 on all rows."""
        dead = [(layer.transpose(0, 1).flatten(1) == 0).all(1) for layer in self._layers]
        return float(torch.cat(dead).float().mean()) if dead else None

    def effective_rank(self) -> float | None:
        """Effective rank of the activations: exp(H), H the entropy of the singular values over their sum (Roy and
        Vetterli 2007); mean over hidden layers."""
        return _mean([effective_rank(values) for values in self._singular_values()])

    def stable_rank(self) -> float | None:
        """Stable rank of the activations (Dohare et al. 2024): how many singular values it takes for 99 % of the sum of
        their squares (Yang et al. 2019); mean over hidden layers."""
        return _mean([stable_rank(values) for values in self._singular_values()])

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
        with frozen_statistics(strategy.network), torch.enable_grad():
            loss = strategy.cross_entropy(strategy.network(self._batch.x), self._batch)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return float(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm())

    def _singular_values(self) -> list[Tensor]:
        """Of the activations of each hidden layer, ``[rows, units]``, means over positions, in float64."""
        layers = [layer.flatten(2).mean(2) if layer.dim() > 2 else layer for layer in self._layers]
        return [torch.linalg.svdvals(layer.double()) for layer in layers]


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
    if not asked or not strategy.diagnosable:
        return {}
    rows = min(ROWS_LOOKED_AT, len(pool))
    index = torch.arange(rows) * len(pool) // rows
    return Diagnosis(strategy, pool.gather(index, augment=False)).told(asked)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
