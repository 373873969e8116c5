"""Columns: networks of which each also sees what came into the layers of earlier ones, through lateral connections.

Rusu et al., "Progressive neural networks", 2016 (arXiv 1606.04671), equations 1 and 2; Schwarz et al., "Progress &
Compress", ICML 2018 (arXiv 1805.06370), section 3.1. Layer i of column k, with h_j the activations h_(i-1) of column j:

    direct:   f(W h_k + U [h_j for j < k])
    adapter:  f(W h_k + U relu(V [alpha_j h_j for j < k] + c)),   alpha_j one number per earlier column
    gated:    f(W h_k + alpha * U relu(V h_j + c)),               alpha one number per output; one earlier column

A *joint* is a place where laterals come in: every link of the backbone's row that holds linear or convolutional layers,
but for the first, which sees the images alone, and the head. At a layer they are added to its output, before norm and
nonlinearity; U then has the layer's own kernel, stride and padding, and V is 1 x 1. At a block that adds a shortcut
there is no such place inside; they are added to its input there, with U and V 1 x 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raycl.models.cut import row
from raycl.models.network import GrowingHead, Network, initialize

Taps = Mapping[int, Tensor]
"""What came into each joint ``[batch, columns * channels, *]``, by the joint's place in the row."""

MakeLateral = Callable[[nn.Module], nn.Module]
"""The link that laterals lead to -> a module from a tap to what is added."""

GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "padding_mode")

MIN_ADAPTER = 8
"""Smallest default width of an adapter: a head of few outputs would leave none."""

LARGEST_SCALE = 0.1
"""Initial factors alpha are drawn from 0 to this."""


class Column(nn.Module):
    """A network and the laterals that lead to it.

    Args:
        make: builds the lateral of each joint; None for a column that sees no other.
    """

    def __init__(self, network: Network, make: MakeLateral | None = None) -> None:
        super().__init__()
        self.network = network
        backbone = [link for _, link in row(network.backbone)] or [network.backbone]
        self._links = (*backbone, network.head)
        self._last = len(backbone)
        self.joints = [place for place, link in enumerate(self._links) if _layers(link)][1:]
        laterals = {str(place): make(self._links[place]) for place in self.joints} if make else {}
        self.laterals = nn.ModuleDict(laterals)

    def forward(self, x: Tensor, before: Taps) -> Tensor:
        """Images and the taps of earlier columns -> logits ``[batch, outputs]``; without taps, of the network alone."""
        features, _ = self._walk(x, before)
        return self._through(self._last, features, before)

    def taps(self, x: Tensor, before: Taps) -> Taps:
        """Images and the taps of earlier columns -> the taps of those and of this one."""
        features, own = self._walk(x, before)
        own[self._last] = features
        return {place: torch.cat([before[place], tap], 1) if before else tap for place, tap in own.items()}

    def _walk(self, x: Tensor, before: Taps) -> tuple[Tensor, dict[int, Tensor]]:
        """Features, and what came into each joint of the backbone."""
        own = {}
        for place in range(self._last):
            if place in self.joints:
                own[place] = x
            x = self._through(place, x, before)
        return x, own

    def _through(self, place: int, x: Tensor, before: Taps) -> Tensor:
        link = self._links[place]
        if not before or str(place) not in self.laterals:
            output: Tensor = link(x)
            return output
        lateral = self.laterals[str(place)](before[place])
        joined: Tensor = link(x + lateral) if _is_block(link) else link(x) + lateral
        return joined


class ColumnStack(nn.ModuleList):
    """Columns in the order of their tasks; those before the last one must not learn."""

    def column(self, task: int) -> Column:
        found = self[task]
        assert isinstance(found, Column)
        return found

    def forward(self, x: Tensor, task: int) -> Tensor:
        """Logits ``[batch, outputs]`` of one column; earlier ones run once, without gradient, and later ones never."""
        taps: Taps = {}
        column = self.column(task)
        if column.laterals:
            with torch.no_grad():
                for earlier in range(task):
                    taps = self.column(earlier).taps(x, taps)
        logits: Tensor = column(x, taps)
        return logits


# -- laterals --------------------------------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """U relu(V h + c).

    Args:
        link: where it leads to.
        columns: earlier columns that it sees.
        width: of the bottleneck; default: n / 2k for the outputs n of the link in column k, at least ``MIN_ADAPTER``.
        generator: draws the weights.
    """

    def __init__(self, link: nn.Module, columns: int, width: int | None, generator: torch.Generator) -> None:
        super().__init__()
        width = width or max(MIN_ADAPTER, _outputs(link) // (2 * (columns + 1)))
        self.down = _pointwise(link, columns * _inputs(link), width, bias=True)
        self.up = _like(link, width)
        initialize(self, generator)

    def forward(self, tap: Tensor) -> Tensor:
        """``[batch, columns * channels, *]`` -> what is added."""
        added: Tensor = self.up(self.down(tap).relu())
        return added


class Adapter(Bottleneck):
    """U relu(V [alpha_j h_j] + c)."""

    def __init__(self, link: nn.Module, columns: int, width: int | None, generator: torch.Generator) -> None:
        super().__init__(link, columns, width, generator)
        self.scale = _factors(columns, generator)

    def forward(self, tap: Tensor) -> Tensor:
        parts = tap.unflatten(1, (len(self.scale), -1))
        return super().forward((parts * _along(self.scale, parts)).flatten(1, 2))


class GatedAdapter(Bottleneck):
    """alpha * U relu(V h + c)."""

    def __init__(self, link: nn.Module, width: int | None, generator: torch.Generator) -> None:
        super().__init__(link, 1, width, generator)
        self.gate = _factors(_outputs(link), generator)

    def forward(self, tap: Tensor) -> Tensor:
        added = super().forward(tap)
        return added * _along(self.gate, added)


def direct(link: nn.Module, columns: int, generator: torch.Generator) -> nn.Module:
    """U [h_j]."""
    lateral = _like(link, columns * _inputs(link))
    initialize(lateral, generator)
    return lateral


def _factors(count: int, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(torch.empty(count).uniform_(0, LARGEST_SCALE, generator=generator))


def _along(factors: Tensor, x: Tensor) -> Tensor:
    """Factors of the second dimension of ``x``."""
    return factors.view(-1, *[1] * (x.dim() - 2))


# -- the shape of a link ---------------------------------------------------------------------------------------------


def _layers(link: nn.Module) -> list[nn.Module]:
    """Its linear and convolutional layers, itself included."""
    return [layer for layer in link.modules() if isinstance(layer, (nn.Linear, nn.Conv2d, GrowingHead))]


def _is_block(link: nn.Module) -> bool:
    return link not in _layers(link)


def _inputs(link: nn.Module) -> int:
    layer = _layers(link)[0]
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels
    assert isinstance(layer, (nn.Linear, GrowingHead))
    return layer.features if isinstance(layer, GrowingHead) else layer.in_features


def _outputs(link: nn.Module) -> int:
    """Channels of what a lateral adds: at a block it is added to the input."""
    if isinstance(link, nn.Conv2d):
        return link.out_channels
    if isinstance(link, nn.Linear):
        return link.out_features
    return link.outputs if isinstance(link, GrowingHead) else _inputs(link)


def _like(link: nn.Module, inputs: int) -> nn.Module:
    """A layer from other inputs to what is added at the link, without a bias."""
    if not isinstance(link, nn.Conv2d):
        return _pointwise(link, inputs, _outputs(link), bias=False)
    geometry: dict[str, Any] = {name: getattr(link, name) for name in GEOMETRY}
    return nn.Conv2d(inputs, link.out_channels, bias=False, **geometry)


def _pointwise(link: nn.Module, inputs: int, outputs: int, bias: bool) -> nn.Module:
    """A linear layer, or a convolution of 1 x 1."""
    if isinstance(_layers(link)[0], nn.Conv2d):
        return nn.Conv2d(inputs, outputs, 1, bias=bias)
    return nn.Linear(inputs, outputs, bias=bias)
