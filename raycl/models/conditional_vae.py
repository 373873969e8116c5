"""A variational autoencoder that draws activations, or images, of a class that is asked for.

Sohn, Lee and Yan, "Learning structured output representation using deep conditional generative models", NeurIPS 2015:
encoder and decoder know the class, here by a vector that is added to their first hidden layer. The prior is standard
normal. Few rows of a class are seen, and few updates made, so mean and deviation of each number are taken from its
rows in closed form, and the autoencoder learns what is left: how rows of a class differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from raycl.models.network import initialize
from raycl.models.vae import divergence

SPREAD = 0.5
"""Standard deviation of an output around its mean, as a share of its class's."""

LEAST = 0.05
"""Least deviation of a number within a class, as a share of the mean deviation."""


class Conditioned(nn.Module):
    """Fully connected layers with ReLU between them, and a vector per class in the first hidden one.

    Args:
        widths: inputs, hidden layers, outputs.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.first, *rest = (nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths))
        self.rest = nn.Sequential(*(layer for linear in rest for layer in (nn.ReLU(), linear)))
        self.classes = nn.Parameter(torch.zeros(0, widths[1]))

    def grow(self, classes: int) -> None:
        """Add vectors of zeros until there are so many classes."""
        missing = classes - len(self.classes)
        if missing > 0:
            zeros = self.classes.new_zeros(missing, self.classes.shape[1])
            self.classes = nn.Parameter(torch.cat([self.classes.data, zeros]))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """float ``[batch, inputs]``, classes int64 ``[batch]`` -> float ``[batch, outputs]``."""
        outputs: Tensor = self.rest(self.first(x) + self.classes[y])
        return outputs


class ConditionalVAE(nn.Module):
    """Encoder and decoder with the same hidden layers, in opposite order.

    Args:
        shape: of what is drawn, without the batch.
        hidden: units per layer of the encoder.
        generator: draws the initial weights.
    """

    mean: Tensor
    deviation: Tensor
    lowest: Tensor

    def __init__(
        self, shape: Sequence[int], hidden: Sequence[int], latent_dim: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.latent_dim = latent_dim
        numbers = math.prod(shape)
        self.encoder = Conditioned([numbers, *hidden, 2 * latent_dim])
        self.decoder = Conditioned([latent_dim, *hidden[::-1], numbers])
        self.register_buffer("mean", torch.zeros(0, numbers))  # of each class
        self.register_buffer("deviation", torch.zeros(0, numbers))
        self.register_buffer("lowest", torch.tensor(math.inf))  # nothing seen lies below, such as 0 after a ReLU
        initialize(self, generator)

    def grow(self, classes: int) -> None:
        """Make room for so many classes."""
        self.encoder.grow(classes)
        self.decoder.grow(classes)
        missing = self.mean.new_zeros(max(0, classes - len(self.mean)), self.mean.shape[1])
        self.mean, self.deviation = torch.cat([self.mean, missing]), torch.cat([self.deviation, missing + 1])

    @torch.no_grad()
    def observe(self, x: Tensor, y: Tensor) -> None:
        """Take mean and deviation of classes from all their rows ``[n, *shape]``, of classes ``y`` int64 ``[n]``."""
        classes, place, counts = y.unique(return_inverse=True, return_counts=True)
        x, counts = x.flatten(1), counts[:, None]
        mean = x.new_zeros(len(classes), x.shape[1]).index_add_(0, place, x) / counts
        squares = torch.zeros_like(mean).index_add_(0, place, (x - mean[place]).square())
        deviation = (squares / counts).sqrt()
        self.mean[classes] = mean
        self.deviation[classes] = deviation.clamp(min=LEAST * deviation.mean().clamp(min=1e-8))
        self.lowest = torch.minimum(self.lowest, x.min())

    def loss(self, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """The negative evidence lower bound ``[batch]`` up to a constant, in units of each class's deviations.

        Args:
            x: ``[batch, *shape]`` of classes ``y`` int64 ``[batch]``.
            noise: standard normal ``[batch, latent_dim]``.
        """
        x = (x.flatten(1) - self.mean[y]) / self.deviation[y]
        mean, log_variance = self.encoder(x, y).split(self.latent_dim, dim=1)
        drawn = self.decoder(mean + noise * (0.5 * log_variance).exp(), y)
        bound: Tensor = 0.5 * ((drawn - x) / SPREAD).square().sum(1) + divergence(mean, log_variance)
        return bound

    def sample(self, y: Tensor, noise: Tensor) -> Tensor:
        """``[batch, *shape]`` of classes ``y``, the means for z = ``noise`` standard normal ``[batch, latent_dim]``."""
        drawn: Tensor = self.decoder(noise, y) * self.deviation[y] + self.mean[y]
        return torch.maximum(drawn, self.lowest).view(-1, *self.shape)
