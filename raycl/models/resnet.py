"""Residual networks for images of 32 x 32 pixels.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2016 (arXiv 1512.03385). ``resnet32`` is the
layout of section 4.2: three stages of five blocks, shortcuts without parameters (option A). ``resnet18`` is the layout
of table 1 with 1 x 1 projections (option B), whose first layer is 3 x 3 with stride 1 and without pooling, as is usual
for small images; ``width: 20`` gives the reduced ResNet-18 of Lopez-Paz and Ranzato 2017.
``biases: true`` gives the ResNet-32 of von Oswald et al. 2020, 468,540 weights with their 60 output units.
``resnet18_imagenet`` is that table's network itself, as torchvision has it, so that weights trained on ImageNet fit.
Departure: weights are uniform within 1/sqrt(fan_in), torch's default, not He-normal; norm layers undo the difference.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.models.cnn import FirstConvolution, Norm, norm_layer, require_pixels
from raycl.models.network import Network, initialize
from raycl.models.registry import Model
from raycl.spec.options import MODEL_HELP, Later, ModelConfig, Width

MIN_PIXELS = 16
BIASES_HELP = "of convolutions before a norm, which takes them off again; those without one have them in any case"


class ResNet18Config(ModelConfig):
    """Four stages of two blocks, of 1, 2, 4 and 8 times ``width`` channels."""

    name: Literal["resnet18"] = Field("resnet18", description=MODEL_HELP)
    width: Width = Field(64, description="channels of the first stage")
    norm: Norm = Field("batch", description="after each convolution")
    biases: Annotated[bool, Later()] = Field(False, description=BIASES_HELP)

    widths: ClassVar[tuple[str, ...]] = ("width",)


class ResNet18ImageNetConfig(ModelConfig):
    """ResNet-18 for large images: a first layer of 7 x 7 with stride 2, then pooling; as torchvision has it."""

    name: Literal["resnet18_imagenet"] = Field("resnet18_imagenet", description=MODEL_HELP)


class ResNet32Config(ModelConfig):
    """Three stages of five blocks, of 1, 2 and 4 times ``width`` channels."""

    name: Literal["resnet32"] = Field("resnet32", description=MODEL_HELP)
    width: Width = Field(16, description="channels of the first stage")
    norm: Norm = Field("batch", description="after each convolution")
    biases: Annotated[bool, Later()] = Field(False, description=BIASES_HELP)

    widths: ClassVar[tuple[str, ...]] = ("width",)


class PaddedShortcut(nn.Module):
    """Every ``stride``-th pixel, and zeros for the channels that are missing."""

    def __init__(self, stride: int, missing: int) -> None:
        super().__init__()
        self.stride = stride
        self.missing = missing

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` -> ``[batch, channels + missing, height / stride, width / stride]``."""
        before = self.missing // 2
        padding = (0, 0, 0, 0, before, self.missing - before)
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], padding)


class Block(nn.Module):
    """Two 3 x 3 convolutions around which a shortcut leads."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm, projection: bool, biases: bool) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_convolution(inputs, outputs, 3, stride, norm, biases),
            nn.ReLU(),
            *_convolution(outputs, outputs, 3, 1, norm, biases),
        )
        self.shortcut: nn.Module = nn.Identity()
        if (stride != 1 or inputs != outputs) and projection:
            self.shortcut = nn.Sequential(*_convolution(inputs, outputs, 1, stride, norm, biases))
        elif stride != 1 or inputs != outputs:
            self.shortcut = PaddedShortcut(stride, outputs - inputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, inputs, height, width]`` -> ``[batch, outputs, height / stride, width / stride]``."""
        return nn.functional.relu(self.residual(x) + self.shortcut(x))


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int, norm: Norm, biases: bool
) -> tuple[nn.Module, nn.Module]:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=biases or norm == "none")
    return layer, norm_layer(norm, outputs)


def _resnet(
    blocks: tuple[int, ...],
    config: ResNet18Config | ResNet32Config,
    image_shape: tuple[int, int, int],
    generator: torch.Generator,
    projection: bool,
) -> Network:
    require_pixels(config.name, MIN_PIXELS, image_shape)
    first = FirstConvolution(image_shape[0], config.width, 3, padding=1, bias=config.biases or config.norm == "none")
    stem = [first, norm_layer(config.norm, config.width), nn.ReLU()]
    return _stages(stem, blocks, config.width, config.norm, generator, projection, config.biases)


def _stages(
    stem: list[nn.Module],
    blocks: tuple[int, ...],
    width: int,
    norm: Norm,
    generator: torch.Generator,
    projection: bool,
    biases: bool = False,
) -> Network:
    """Stages of blocks on a stem that puts out ``width`` channels, each with twice the channels of the one before."""
    inputs = width
    layers = stem
    for stage, count in enumerate(blocks):
        outputs = width << stage
        for place in range(count):
            stride = 2 if stage > 0 and place == 0 else 1
            layers.append(Block(inputs, outputs, stride, norm, projection, biases))
            inputs = outputs
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    initialize(backbone, generator)
    return Network(backbone, inputs, generator)


def build_resnet18(config: ResNet18Config, image_shape: tuple[int, int, int], generator: torch.Generator) -> Network:
    """ResNet-18 over images ``[batch, channels, height, width]``."""
    return _resnet((2, 2, 2, 2), config, image_shape, generator, projection=True)


def build_resnet18_imagenet(
    config: ResNet18ImageNetConfig, image_shape: tuple[int, int, int], generator: torch.Generator
) -> Network:
    """torchvision's ResNet-18 over images ``[batch, channels, height, width]`` of any size."""
    first = FirstConvolution(image_shape[0], 64, 7, stride=2, padding=3, bias=False)
    stem = [first, norm_layer("batch", 64), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)]
    return _stages(stem, (2, 2, 2, 2), 64, "batch", generator, projection=True)


def build_resnet32(config: ResNet32Config, image_shape: tuple[int, int, int], generator: torch.Generator) -> Network:
    """ResNet-32 over images ``[batch, channels, height, width]``."""
    return _resnet((5, 5, 5), config, image_shape, generator, projection=False)


# revision 2: channels last rounds otherwise
RESNET18 = Model(ResNet18Config, build_resnet18, revision=2)
RESNET18_IMAGENET = Model(ResNet18ImageNetConfig, build_resnet18_imagenet, revision=2)
RESNET32 = Model(ResNet32Config, build_resnet32, revision=2)
