"""A symmetric fully connected variational autoencoder, whose decoder draws images.

Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014 (arXiv 1312.6114), equation 10, with a standard normal
prior and Bernoulli pixels. Pixels lie in [0, 1] and are not made binary; what is drawn is the mean of the pixels.

Encoder and decoder are modules of their own, so that a method may keep, freeze or generate the weights of one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from raycl.models.network import initialize


class Encoder(nn.Module):
    """Images to the moments of the approximate posterior.

    Args:
        hidden: units per layer.
    """

    def __init__(self, image_shape: tuple[int, int, int], hidden: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.layers = nn.Sequential(nn.Flatten(), *_layers([math.prod(image_shape), *hidden]))
        self.moments = nn.Linear(hidden[-1], 2 * latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """float ``[batch, channels, height, width]`` -> mean and log variance ``[batch, latent_dim]``."""
        mean, log_variance = self.moments(self.layers(x)).split(self.latent_dim, dim=1)
        return mean, log_variance


class Decoder(nn.Module):
    """Latent vectors to pixels.

    Args:
        hidden: units per layer, from the latent vector on.
    """

    def __init__(self, image_shape: tuple[int, int, int], hidden: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        pixels = nn.Linear(hidden[-1], math.prod(image_shape))
        self.layers = nn.Sequential(*_layers([latent_dim, *hidden]), pixels, nn.Unflatten(1, image_shape))

    def forward(self, z: Tensor) -> Tensor:
        """float ``[batch, latent_dim]`` -> logits of the pixels ``[batch, channels, height, width]``."""
        logits: Tensor = self.layers(z)
        return logits


class VAE(nn.Module):
    """Encoder and decoder with the same hidden layers, in opposite order.

    Args:
        image_shape: channels, height, width.
        hidden: units per layer of the encoder.
        generator: draws the initial weights.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], hidden: Sequence[int], latent_dim: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.encoder = Encoder(image_shape, hidden, latent_dim)
        self.decoder = Decoder(image_shape, hidden[::-1], latent_dim)
        initialize(self, generator)

    def loss(self, x: Tensor, noise: Tensor) -> Tensor:
        """The negative evidence lower bound ``[batch]`` of images in [0, 1], summed over pixels and latent units.

        Args:
            noise: standard normal ``[batch, latent_dim]``, one draw per image.
        """
        return evidence_loss(self.encoder, self.decoder, x, noise)


Layers = Sequence[tuple[Tensor, Tensor]]
"""Of each layer the weights ``[sets, inputs, outputs]`` and biases ``[sets, 1, outputs]`` of several decoders."""


class GeneratedDecoder(nn.Module):
    """Decoders as one pure function of weights that something else makes, several sets of them side by side.

    A set is a flat vector: layer after layer, the weight before the bias. There are no parameters; it is a module so
    that hooks see every pass.

    Attributes:
        row_dims: leading dimensions of what it draws that are rows.
        sizes: numbers of weights of its tensors, in order.
        numel: numbers in a set.
    """

    row_dims = 2

    def __init__(self, image_shape: tuple[int, int, int], hidden: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self._image_shape = image_shape
        self._widths = list(pairwise([latent_dim, *hidden, math.prod(image_shape)]))
        self.sizes = [size for inputs, outputs in self._widths for size in (inputs * outputs, outputs)]
        self.numel = sum(self.sizes)

    @property
    def variances(self) -> list[float]:
        """With which its tensors would start by themselves: 2 / fan_in, 1 / fan_in in the last layer, 0 for biases."""
        last = len(self._widths) - 1
        gains = [1.0 if place == last else 2.0 for place in range(len(self._widths))]
        return [found for gain, (fan_in, _) in zip(gains, self._widths, strict=True) for found in (gain / fan_in, 0.0)]

    def layers(self, flat: Tensor) -> Layers:
        """Cut up sets ``[sets, numel]``; views."""
        parts = iter(flat.split(self.sizes, dim=1))
        return [(next(parts).view(-1, outputs, inputs).mT, next(parts)[:, None]) for inputs, outputs in self._widths]

    def forward(self, layers: Layers, z: Tensor) -> Tensor:
        """float ``[sets, batch, latent_dim]`` -> logits of the pixels ``[sets, batch, channels, height, width]``."""
        *inner, (weight, bias) = layers
        for inner_weight, inner_bias in inner:
            z = torch.baddbmm(inner_bias, z, inner_weight).relu()
        logits: Tensor = torch.baddbmm(bias, z, weight).unflatten(2, self._image_shape)
        return logits


def evidence_loss(encoder: Encoder, decoder: Callable[[Tensor], Tensor], x: Tensor, noise: Tensor) -> Tensor:
    """The negative evidence lower bound ``[batch]`` of images in [0, 1], summed over pixels and latent units.

    Args:
        decoder: latent vectors ``[batch, latent_dim]`` -> logits of the pixels, as images.
        noise: standard normal ``[batch, latent_dim]``, one draw per image.
    """
    mean, log_variance = encoder(x)
    z = mean + noise * (0.5 * log_variance).exp()
    return reconstruction_loss(decoder(z), x) + divergence(mean, log_variance)


def reconstruction_loss(logits: Tensor, x: Tensor) -> Tensor:
    """Cross-entropy ``[batch]`` between pixels in [0, 1] and Bernoulli pixels given by logits, summed over pixels."""
    return (nn.functional.softplus(logits) - x * logits).flatten(1).sum(1)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence ``[batch]`` from N(0, I) of normal distributions ``[batch, latent_dim]``, closed form."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def _layers(widths: Sequence[int]) -> list[nn.Module]:
    return [layer for inputs, outputs in pairwise(widths) for layer in (nn.Linear(inputs, outputs), nn.ReLU())]
