"""A backbone with one growable matrix as its head."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

Start = Literal["default", "xavier", "kaiming"]
"""How layers start: see :func:`initialize`, :func:`xavier` and :func:`kaiming`."""


class GrowingHead(nn.Module):
    """A linear layer whose output units are added as tasks arrive: one matrix, never a module a task.

    Existing rows keep their values. New ones are drawn as in ``nn.Linear`` (uniform within 1/sqrt(features)), as
    :func:`xavier` would draw a layer with all rows so far, or as :func:`kaiming` draws one without a ReLU.

    Args:
        features: inputs.
        generator: draws new rows; part of the checkpoint.

    Attributes:
        start: how new rows are drawn.
        affine: whether logits are a matrix product and a bias, so that rows may be merged, shifted or written.
    """

    start: Start = "default"
    affine: ClassVar[bool] = True

    def __init__(self, features: int, generator: torch.Generator) -> None:
        super().__init__()
        self.features = features
        self.weight = nn.Parameter(torch.empty(0, features))
        self.bias: nn.Parameter | None = nn.Parameter(torch.empty(0))
        self.generator = generator

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

    @property
    def numbers_per_unit(self) -> int:
        """Parameters that one more output unit takes."""
        return self.features + (self.bias is not None)

    def grow(self, outputs: int) -> None:
        """Add rows until there are ``outputs`` of them."""
        missing = outputs - self.outputs
        if missing <= 0:
            return
        bound = start_bound(self.start, self.features, outputs, gain=1.0)
        weight = torch.empty(missing, self.features).uniform_(-bound, bound, generator=self.generator)
        device = self.weight.device
        self.weight = nn.Parameter(torch.cat([self.weight.data, weight.to(device)]))
        if self.bias is None:
            return
        bias = torch.zeros(missing)
        if self.start == "default":
            bias.uniform_(-bound, bound, generator=self.generator)
        self.bias = nn.Parameter(torch.cat([self.bias.data, bias.to(device)]))

    def forward(self, features: Tensor, units: range | None = None) -> Tensor:
        """float ``[batch, features]`` -> logits ``[batch, outputs]``, or those of some units alone."""
        if units is None:
            return self.logits(features, self.weight, self.bias)
        rows = slice(units.start, units.stop)
        return self.logits(features, self.weight[rows], None if self.bias is None else self.bias[rows])

    def logits(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """float ``[batch, features]`` -> logits ``[batch, units]`` of rows that stand in for those of the head."""
        return nn.functional.linear(features, weight, bias)

    def own(self, features: Tensor, units: range) -> Tensor:
        """float ``[batch, features]`` -> logits ``[batch, len(units)]`` of these units.

        Only their rows are multiplied: a product with more rows, as the head grows, may round differently.
        """
        logits: Tensor = self(features, units)  # a call like any other, so that hooks see it
        return logits

    def alone(self, features: Tensor, units: range) -> Tensor:
        """:meth:`own` where these units lie in ``[batch, outputs]``, and minus infinity elsewhere."""
        logits = features.new_full((len(features), self.outputs), float("-inf"))
        logits[:, units.start : units.stop] = self.own(features, units)
        return logits


class CosineHead(GrowingHead):
    """A head that sees directions only: ``scale`` times the cosine of features and rows, without a bias.

    Rows of many examples so grow no longer than rows of few. Lengths below 1e-5 are taken for 1e-5: a row of zeros has
    no direction.

    Args:
        scale: the largest logit.
    """

    affine: ClassVar[bool] = False

    def __init__(self, features: int, generator: torch.Generator, scale: float) -> None:
        super().__init__(features, generator)
        self.bias = None
        self._scale = scale

    def logits(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """float ``[batch, features]`` -> logits ``[batch, units]`` in -scale .. scale."""
        directions = nn.functional.normalize(weight, dim=1, eps=1e-5)
        return self._scale * nn.functional.linear(nn.functional.normalize(features, dim=1, eps=1e-5), directions)


class Network(nn.Module):
    """A backbone and its growing head.

    Args:
        backbone: float ``[batch, channels, height, width]`` -> ``[batch, features]``.
        features: width of the backbone's output.
        generator: draws the head's rows.
    """

    def __init__(self, backbone: nn.Module, features: int, generator: torch.Generator) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = GrowingHead(features, generator)

    def measure_cosines(self, scale: float) -> None:
        """Take a :class:`CosineHead` in place of the linear one, before it has any row."""
        assert not self.head.outputs, "rows of a linear head would be lost"
        self.head = CosineHead(self.head.features, self.head.generator, scale)

    def grow_head(self, outputs: int) -> None:
        self.head.grow(outputs)

    def over(self, backbone: nn.Module) -> Network:
        """The same head over another backbone, of as many features."""
        other = Network(backbone, self.head.features, self.head.generator)
        other.head = self.head
        return other

    def forward(self, x: Tensor, units: range | None = None) -> Tensor:
        """float ``[batch, channels, height, width]`` -> logits ``[batch, outputs]``, or those of some units alone."""
        features = self.backbone(x)
        logits: Tensor = self.head(features) if units is None else self.head.own(features, units)
        return logits


def dropout(share: float) -> list[nn.Module]:
    """What leaves out a share of a layer's outputs in training; nothing where it is 0."""
    return [nn.Dropout(share)] if share else []


def initialize(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every linear and convolutional layer from ``generator``, as torch's own defaults would.

    Kaiming-uniform with a = sqrt(5), which is uniform within 1/sqrt(fan_in), for weights and biases alike.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters(recurse=False):
                parameter.data.uniform_(-bound, bound, generator=generator)


def xavier(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every linear and convolutional layer from ``generator``, as Glorot and Bengio do; biases are zero.

    "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010, eq. 16: uniform within
    sqrt(6 / (fan_in + fan_out)).
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def kaiming(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every linear and convolutional layer from ``generator``, as He et al. do for ReLUs; biases are zero.

    "Delving deep into rectifiers", ICCV 2015, eq. 10, as a uniform distribution: within sqrt(6 / fan_in).
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def start_bound(start: Start, inputs: int, outputs: int, gain: float = math.sqrt(2)) -> float:
    """Where the uniform distribution ends from which a layer's weights start.

    Args:
        inputs: fan-in.
        outputs: fan-out.
        gain: of what follows the layer, for ``kaiming``: the square root of 2 for a ReLU, 1 for none.
    """
    if start == "kaiming":
        return gain * math.sqrt(3 / inputs)
    return math.sqrt(6 / (inputs + outputs)) if start == "xavier" else 1 / math.sqrt(inputs)


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for the duration, so that extra forward passes move no running statistics and no dropout."""
    training = [vars(child) for child in module.modules() if child.training]
    for attributes in training:  # setting an attribute of a module looks for parameters first, and costs ten times this
        attributes["training"] = False
    try:
        yield
    finally:
        for attributes in training:
            attributes["training"] = True
