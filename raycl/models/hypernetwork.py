"""The network that generates a target network's weights from a task embedding, whole or chunk by chunk.

von Oswald, Henning, Grewe and Sacramento, "Continual learning with hypernetworks", ICLR 2020 (arXiv 1906.00695),
sections 2.1 and 2.2. A trunk turns ``[task embedding; chunk embedding]`` into features, one linear layer turns
features into a chunk of weights, and the chunks are laid end to end and cut where the target's weights end. The full
hypernetwork is the case of a single chunk as large as the target, without chunk embeddings: a linear head per target
tensor is the same map as one linear head for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Theta = Mapping[str, Tensor]
"""The generator's weights by name: its parameters, or other values of the same shapes (lookahead, snapshot)."""

Activation = Literal["relu", "elu", "tanh", "sigmoid"]

_ACTIVATIONS = {"relu": torch.relu, "elu": nn.functional.elu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


class WeightGenerator(nn.Module):
    """h(e; theta): task embeddings -> flat target weights.

    The methods are pure functions of the ``theta`` they are given; the parameters are only its usual value.
    Initialisation as in the authors' experiments: matrices Xavier-uniform, biases zero, chunk embeddings N(0, 1).

    Args:
        sizes: numbers of weights of the target's tensors, in order.
        embedding_dim: n_e, length of a task embedding.
        hidden: widths of the trunk's layers; none makes the map from embeddings to weights linear.
        generator: draws the initial values.
        chunk_size: weights per chunk; None generates all weights at once (full hypernetwork).
        chunk_embedding_dim: n_c, length of a chunk embedding.

    Attributes:
        numel: D, weights generated per task.
        chunk_size: as given, at most D.
        num_chunks: ceil(D / chunk_size).
        features_dim: d, width of the features that enter the last layer.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        embedding_dim: int,
        hidden: Sequence[int],
        activation: Activation,
        generator: torch.Generator,
        chunk_size: int | None = None,
        chunk_embedding_dim: int = 0,
    ) -> None:
        super().__init__()
        self.numel = sum(sizes)
        self.chunk_size = min(chunk_size or self.numel, self.numel)
        self.num_chunks = math.ceil(self.numel / self.chunk_size)
        self.embedding_dim = embedding_dim
        self._activation = _ACTIVATIONS[activation]
        self._depth = len(hidden)
        chunk_dim = chunk_embedding_dim if chunk_size else 0
        widths = (embedding_dim + chunk_dim, *hidden)
        self.features_dim = widths[-1]
        self.chunks = nn.Parameter(torch.randn(self.num_chunks, chunk_dim, generator=generator))
        self.trunk_weight = nn.ParameterList(
            _xavier((outputs,), inputs, generator) for inputs, outputs in pairwise(widths)
        )
        self.trunk_bias = nn.ParameterList(torch.zeros(width) for width in hidden)
        parts = (self.chunk_size,) if chunk_size else sizes
        self.weight = _xavier(parts, self.features_dim, generator)
        self.bias = nn.Parameter(torch.zeros(self.chunk_size))

    @property
    def theta(self) -> dict[str, nn.Parameter]:
        """The parameters by name."""
        return dict(self.named_parameters())

    def features(self, theta: Theta, embeddings: Tensor) -> Tensor:
        """Embeddings ``[tasks, embedding_dim]`` -> features ``[tasks, num_chunks, features_dim]``."""
        chunks = theta["chunks"]
        own = embeddings[:, None, :].expand(-1, len(chunks), -1)
        features = torch.cat([own, chunks.expand(len(embeddings), -1, -1)], dim=2)
        for layer in range(self._depth):
            weight, bias = theta[f"trunk_weight.{layer}"], theta[f"trunk_bias.{layer}"]
            features = self._activation(nn.functional.linear(features, weight, bias))
        return features

    def assemble(self, theta: Theta, features: Tensor) -> Tensor:
        """Features ``[tasks, num_chunks, features_dim]`` -> weights ``[tasks, numel]``; the surplus is cut off."""
        return nn.functional.linear(features, theta["weight"], theta["bias"]).flatten(1)[:, : self.numel]

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings ``[tasks, embedding_dim]`` -> weights ``[tasks, numel]``, with the parameters as they stand."""
        theta = self.theta
        return self.assemble(theta, self.features(theta, embeddings))


def _xavier(parts: Sequence[int], inputs: int, generator: torch.Generator) -> nn.Parameter:
    """Rows of several linear layers over the same inputs, each layer uniform within sqrt(6 / (fan_in + fan_out))."""
    bounds = (math.sqrt(6 / (inputs + outputs)) for outputs in parts)
    rows = [
        torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
        for outputs, bound in zip(parts, bounds, strict=True)
    ]
    return nn.Parameter(torch.cat(rows))
