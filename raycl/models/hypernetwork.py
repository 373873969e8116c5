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

EMBEDDINGS = 256
"""Drawn to tell how large the features are from which weights are made."""

Activation = Literal["relu", "elu", "tanh", "sigmoid"]

_ACTIVATIONS = {"relu": torch.relu, "elu": nn.functional.elu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


class WeightGenerator(nn.Module):
    """h(e; theta): task embeddings -> flat target weights.

    The methods are pure functions of the ``theta`` they are given; the parameters are only its usual value.
    Initialisation as in the authors' experiments: matrices Xavier-uniform, biases zero, chunk embeddings normal. With
    ``variances`` the last layer starts by hyperfan-in instead (Chang, Flokas and Lipson, "Principled weight
    initialization for hypernetworks", ICLR 2020, section 4.2): what is generated has the variance with which the
    target's own layers would start. A row of the last layer that makes weights of several tensors, chunk after chunk,
    has their mean.

    Args:
        sizes: numbers of weights of the target's tensors, in order.
        embedding_dim: n_e, length of a task embedding.
        hidden: widths of the trunk's layers; none makes the map from embeddings to weights linear.
        generator: draws the initial values.
        chunk_size: weights per chunk; None generates all weights at once (full hypernetwork).
        chunk_embedding_dim: n_c, length of a chunk embedding.
        embedding_std, chunk_std: of the entries of task embeddings, which are drawn elsewhere, and of chunk embeddings.
        variances: for each of the target's tensors, of its weights as they are to start; None: as Xavier has it.

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
        embedding_std: float = 1.0,
        chunk_std: float = 1.0,
        variances: Sequence[float] | None = None,
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
        drawn = torch.randn(self.num_chunks, chunk_dim, generator=generator)
        self.chunks = nn.Parameter(drawn if chunk_std == 1 else drawn * chunk_std)
        self.trunk_weight = nn.ParameterList(
            _xavier((outputs,), inputs, generator) for inputs, outputs in pairwise(widths)
        )
        self.trunk_bias = nn.ParameterList(torch.zeros(width) for width in hidden)
        parts = (self.chunk_size,) if chunk_size else sizes
        self.weight = _xavier(parts, self.features_dim, generator)
        self.bias = nn.Parameter(torch.zeros(self.chunk_size))
        if variances is not None:
            self._start_by_hyperfan(sizes, variances, embedding_std, generator)

    @torch.no_grad()
    def _start_by_hyperfan(
        self, sizes: Sequence[int], variances: Sequence[float], embedding_std: float, generator: torch.Generator
    ) -> None:
        """Draw the last layer for weights of given variances: those of a row are d times its own times E[feature^2]."""
        embeddings = torch.randn(EMBEDDINGS, self.embedding_dim, generator=generator) * embedding_std
        square = float(self.features(self.theta, embeddings).square().mean())
        surplus = self.num_chunks * self.chunk_size - self.numel
        wanted = torch.cat(
            [torch.full((size,), variance) for size, variance in zip(sizes, variances, strict=True)]
            + [torch.full((surplus,), math.nan)]
        )
        each = wanted.view(self.num_chunks, self.chunk_size).nanmean(0)
        bound = (3 * each / (self.features_dim * square)).sqrt()
        self.weight.uniform_(-1, 1, generator=generator).mul_(bound[:, None])

    @property
    def theta(self) -> dict[str, nn.Parameter]:
        """The parameters by name."""
        return dict(self.named_parameters())

    def features(self, theta: Theta, embeddings: Tensor, dropout: float = 0.0) -> Tensor:
        """Embeddings ``[tasks, embedding_dim]`` -> features ``[tasks, num_chunks, features_dim]``.

        Args:
            dropout: share of the units left out after each layer of the trunk, while the task's loss is learned.
        """
        chunks = theta["chunks"]
        own = embeddings[:, None, :].expand(-1, len(chunks), -1)
        features = torch.cat([own, chunks.expand(len(embeddings), -1, -1)], dim=2)
        for layer in range(self._depth):
            weight, bias = theta[f"trunk_weight.{layer}"], theta[f"trunk_bias.{layer}"]
            features = self._activation(nn.functional.linear(features, weight, bias))
            if dropout:
                features = nn.functional.dropout(features, dropout)
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
