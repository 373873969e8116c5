"""The convolutional network of Zenke, Poole and Ganguli, "Continual learning through synaptic intelligence", 2017
(arXiv 1703.04200), on split CIFAR: two blocks of two convolutions, and a fully connected layer.

Of von Oswald et al. 2020's experiments on CIFAR, too: 1,276,508 weights with their 60 output units. Departure: weights
are uniform within 1/sqrt(fan_in), torch's default.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from raycl.models.cnn import FirstConvolution, require_pixels
from raycl.models.network import Network, initialize
from raycl.models.registry import Model
from raycl.spec.options import MODEL_HELP, ModelConfig

FEATURES, LEAST_PIXELS = 512, 10


class ZenkeNetConfig(ModelConfig):
    """Convolutions (3 x 3) of 32, 32, 64 and 64 channels, pooling (2 x 2) after each second one, and 512 units."""

    name: Literal["zenkenet"] = Field("zenkenet", description=MODEL_HELP)
    dropout: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.25, description="share of the channels left out in training after each pooling; of the units twice as many"
    )


def build(config: ZenkeNetConfig, image_shape: tuple[int, int, int], generator: torch.Generator) -> Network:
    """ZenkeNet over images ``[batch, channels, height, width]``.

    Raises:
        SpecError: the images are too small.
    """
    require_pixels(config.name, LEAST_PIXELS, image_shape)
    channels, height, width = image_shape
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, 32), (32, 64)):
        first = nn.Conv2d if layers else FirstConvolution
        layers += [first(inputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3), nn.ReLU()]
        layers += [nn.MaxPool2d(2), nn.Dropout2d(config.dropout)]
        height, width = (height - 2) // 2, (width - 2) // 2
    layers += [nn.Flatten(), nn.Linear(64 * height * width, FEATURES), nn.ReLU(), nn.Dropout(2 * config.dropout)]
    backbone = nn.Sequential(*layers)
    initialize(backbone, generator)
    return Network(backbone, FEATURES, generator)


ZENKENET = Model(ZenkeNetConfig, build)
