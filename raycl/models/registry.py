"""Every built-in model, a line each. Installed packages add theirs through the entry-point group ``raycl.models``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field, create_model

from raycl.errors import MethodError
from raycl.registry import Registry
from raycl.spec.options import MODEL_HELP, ModelConfig

if TYPE_CHECKING:  # names are looked up without torch
    import torch
    from torch import nn

    from raycl.models.network import Network

Build: TypeAlias = "Callable[[Any, tuple[int, int, int], torch.Generator], nn.Module]"
"""(Options, image shape, generator) -> a backbone, or a whole :class:`raycl.models.network.Network`."""


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
        "zenkenet": "raycl.models.zenkenet:ZENKENET",
    },
)


def model(name: str, config: type[ModelConfig] | None = None) -> Callable[[Build], Build]:
    """Register a network of one's own: a decorator for a function that builds it.

    The function takes the options, the images' shape (channels, height, width) and a generator that draws the start,
    and returns a backbone (float ``[batch, channels, height, width]`` -> ``[batch, features]``), or a whole
    :class:`raycl.models.network.Network`.

    Args:
        config: its options; default: those that every model has.

    Raises:
        UnknownName: a model of this name is built in or installed.

    Example:
        >>> @model("tiny")
        ... def tiny(config, image_shape, generator):
        ...     channels, height, width = image_shape
        ...     return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 16), nn.ReLU())
    """
    options = config or _named(name)

    def register(build: Build) -> Build:
        MODELS.register(name, Model(options, _Built(build)))
        return build

    return register


@dataclass(frozen=True)
class _Built:
    """Makes a network of whatever a user's function builds."""

    build: Build

    def __call__(self, config: Any, image_shape: tuple[int, int, int], generator: torch.Generator) -> Network:
        import torch

        from raycl.models.network import Network

        with torch.random.fork_rng(devices=[]):  # layers draw from torch's own generator, which decides nothing else
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            made = self.build(config, image_shape, generator)
        if isinstance(made, Network):
            return made
        with torch.no_grad():
            made.eval()
            features = made(torch.zeros(1, *image_shape))
            made.train()
        if features.ndim != 2:
            raise MethodError(
                f"a model's backbone must give [batch, features] (got {list(features.shape)} for one image); end it "
                "with nn.Flatten()"
            )
        return Network(made, features.shape[1], generator)


def _named(name: str) -> type[ModelConfig]:
    """The options that every model has, under a name."""
    kind: Any = Literal[name]
    return create_model(f"{name}Config", __base__=ModelConfig, name=(kind, Field(name, description=MODEL_HELP)))
