"""How wide several networks may be that together have no more parameters than one."""

from __future__ import annotations

from collections.abc import Callable

from raycl.models.network import Network

HALVINGS = 12
"""Steps of the search for a width: to 1/4096 of the model's."""


def matching_width(parameters: Callable[[float], int], limit: int) -> float:
    """The largest factor on widths, below 1, at which ``parameters(factor)`` is at most ``limit``; 0 where none is."""
    lower, upper = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (lower + upper) / 2
        lower, upper = (middle, upper) if parameters(middle) <= limit else (lower, middle)
    return lower


def parameters_with_head(network: Network, units: int) -> int:
    """Parameters of a network, were its head to have so many units."""
    backbone = sum(p.numel() for p in network.backbone.parameters())
    return backbone + units * network.head.numbers_per_unit
