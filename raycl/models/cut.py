"""A backbone cut at a layer: what lies below, whose output may be stored, and what lies above."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from raycl.errors import MethodError
from raycl.models.network import Network


def cut(backbone: nn.Module, layer: str | None) -> tuple[nn.Sequential, nn.Sequential]:
    """The parts below and above the output of ``layer``; both share the backbone's modules.

    Args:
        backbone: modules in a row, which may themselves be rows.
        layer: registered name of the last module of the lower part, such as ``"5"`` or ``"2.1"``; default: the last.

    Returns:
        The lower part, ``[batch, *]`` -> activations, and the upper part, activations -> ``[batch, features]``.

    Raises:
        MethodError: there is no such module, or the backbone is no row of modules.
    """
    modules = dict(row(backbone))
    names = list(modules)
    layer = names[-1] if layer is None and names else layer
    if layer not in modules:
        known = ", ".join(f"{name} {type(module).__name__}" for name, module in modules.items())
        raise MethodError(
            f"layer must name one of the backbone's modules in a row (known: {known or 'none'}; got {layer!r})"
        )
    place = names.index(layer) + 1
    links = list(modules.values())
    return nn.Sequential(*links[:place]), nn.Sequential(*links[place:])


def divide(network: Network, layer: str) -> tuple[nn.Sequential, Network]:
    """What lies below the output of a layer of the backbone, and the network above it, which has the same head.

    Raises:
        MethodError: as :func:`cut`.
    """
    lower, upper = cut(network.backbone, layer)
    return lower, network.over(upper)


def row(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Name and module of each link of a chain, in order; rows within the row are opened."""
    if isinstance(module, nn.Sequential):
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if isinstance(child, nn.Sequential) and len(child):
                yield from row(child, f"{path}.")
            else:
                yield path, child
