"""Every built-in model, a line each. Installed packages add theirs through the entry-point group ``raycl.models``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from raycl.models.network import Network
from raycl.registry import Registry
from raycl.spec.options import ModelConfig


@dataclass(frozen=True)
class Model:
    """A model's options and the function that builds it: (config, image shape, generator) -> network.

    Attributes:
        revision: raised when the same options would build another network; part of a trial's hash from 2 on.
    """

    Config: type[ModelConfig]
    build: Callable[[Any, tuple[int, int, int], torch.Generator], Network]
    revision: int = 1


MODELS: Registry[Model] = Registry(
    "model",
    "raycl.models",
    {
        "mlp": "raycl.models.mlp:MLP",
        "cnn": "raycl.models.cnn:CNN",
        "resnet18": "raycl.models.resnet:RESNET18",
        "resnet18_imagenet": "raycl.models.resnet:RESNET18_IMAGENET",
        "resnet32": "raycl.models.resnet:RESNET32",
    },
)
