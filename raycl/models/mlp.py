"""Multi-layer perceptron."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from raycl.models.network import Network, dropout, initialize
from raycl.models.registry import Model
from raycl.spec.options import DROPOUT_HELP, MODEL_HELP, Dropped, Later, ModelConfig, Widths


class MLPConfig(ModelConfig):
    """Fully connected layers with ReLU."""

    name: Literal["mlp"] = Field("mlp", description=MODEL_HELP)
    hidden: Widths = Field(
        (400, 400), description="units per layer; []: a linear classifier, such as a probe on encoded images"
    )
    norm: Literal["none", "batch"] = Field("none", description="after each layer, before the ReLU")
    dropout: Annotated[Dropped, Later()] = Field(0.0, description=DROPOUT_HELP)

    widths: ClassVar[tuple[str, ...]] = ("hidden",)

    @property
    def flat_batch_norm(self) -> bool:
        return self.norm == "batch" and bool(self.hidden)

    @property
    def perceptron(self) -> bool:
        return not self.dropout and self.norm == "none" and bool(self.hidden) and self.classifier != "cosine"


def build(config: MLPConfig, image_shape: tuple[int, int, int], generator: torch.Generator) -> Network:
    """An MLP over flattened images ``[batch, channels, height, width]``."""
    channels, height, width = image_shape
    widths = (channels * height * width, *config.hidden)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers.append(nn.Linear(inputs, outputs))
        if config.norm == "batch":
            layers.append(nn.BatchNorm1d(outputs))
        layers.append(nn.ReLU())
        layers += dropout(config.dropout)
    backbone = nn.Sequential(*layers)
    initialize(backbone, generator)
    return Network(backbone, widths[-1], generator)


MLP = Model(MLPConfig, build)
