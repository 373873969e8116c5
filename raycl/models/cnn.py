"""A small convolutional network for images of 8 x 8 pixels and more."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.errors import Problem, SpecError
from raycl.models.network import Network, dropout, initialize
from raycl.models.registry import Model
from raycl.spec.options import DROPOUT_HELP, MODEL_HELP, Dropped, Later, ModelConfig, Width, Widths

Norm = Literal["batch", "group", "none"]


class FirstConvolution(nn.Conv2d):
    """A convolution that on a CPU takes images channels last; the layers after it keep that format.

    Convolutions, pooling and norms are a fifth to a half faster so, forward and back. It stands in the layer, not
    around the network, so that whoever runs the layers one by one has it too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, inputs, height, width]`` -> ``[batch, outputs, ...]``."""
        return super().forward(x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x)


class CNNConfig(ModelConfig):
    """Blocks of convolution (3 x 3), norm, ReLU and max-pooling (2 x 2), then a fully connected layer."""

    name: Literal["cnn"] = Field("cnn", description=MODEL_HELP)
    channels: Widths = Field((32, 64), min_length=1, description="of each block")
    hidden: Width = Field(128, description="units of the fully connected layer")
    norm: Norm = Field("none", description="after each convolution")
    dropout: Annotated[Dropped, Later()] = Field(0.0, description=DROPOUT_HELP)

    widths: ClassVar[tuple[str, ...]] = ("channels", "hidden")


def require_pixels(model: str, least: int, image_shape: tuple[int, int, int]) -> None:
    """Refuse images that a model has no layers for.

    Raises:
        SpecError: height or width is below ``least``.
    """
    _, height, width = image_shape
    if min(height, width) < least:
        rule = f"needs images of at least {least} x {least} pixels; set stream.pad, or take model cnn or mlp"
        raise SpecError([Problem("model.name", rule, f"{model} on {height} x {width}")])


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Batch norm, group norm of (up to) eight groups, or nothing."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(8, channels), channels) if norm == "group" else nn.Identity()


def build(config: CNNConfig, image_shape: tuple[int, int, int], generator: torch.Generator) -> Network:
    """A CNN over images ``[batch, channels, height, width]``, initialised as torch's layers are by default.

    Raises:
        SpecError: the images are too small for so many halvings.
    """
    inputs, height, width = image_shape
    halvings = len(config.channels)
    if min(height, width) >> halvings == 0:
        rule = f"images of {height} x {width} pixels can be halved fewer times; give fewer channels or pad the images"
        raise SpecError([Problem("model.channels", rule, str(list(config.channels)))])
    layers: list[nn.Module] = []
    for outputs in config.channels:
        convolution = nn.Conv2d if layers else FirstConvolution
        layers += [
            convolution(inputs, outputs, 3, padding=1, bias=config.norm == "none"),
            norm_layer(config.norm, outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
            *dropout(config.dropout),
        ]
        inputs = outputs
    pixels = (height >> halvings) * (width >> halvings)
    layers += [nn.Flatten(), nn.Linear(inputs * pixels, config.hidden), nn.ReLU(), *dropout(config.dropout)]
    backbone = nn.Sequential(*layers)
    initialize(backbone, generator)
    return Network(backbone, config.hidden, generator)


CNN = Model(CNNConfig, build, revision=2)  # channels last rounds otherwise
