"""Masks over fixed weights: found by gradient through real scores, kept as packed bits.

A mask is a hard decision on scores, whose gradient passes straight through: dL/dscores := dL/dmask, which is
dL/d(W * mask) * W where the mask multiplies weights W. Mallya, Davis and Lazebnik, "Piggyback", ECCV 2018 (arXiv
1801.06519), section 3, decide by a threshold; Ramanujan et al., "What's hidden in a randomly weighted neural network?",
CVPR 2020 (arXiv 1911.13299), section 4 (edge-popup), keep the largest scores of each layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.models.network import GrowingHead

BITS = 8


class _StraightThrough(torch.autograd.Function):
    """A decision forward, the identity of its scores backward."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, decision: Tensor) -> Tensor:
        return decision

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _decided(scores: Tensor, decision: Tensor) -> Tensor:
    """A decision in the scores' type, with the gradient of the scores themselves."""
    mask: Tensor = _StraightThrough.apply(scores, decision.to(scores.dtype))
    return mask


def above(scores: Tensor, threshold: float) -> Tensor:
    """1 where a score lies above the threshold, else 0."""
    return _decided(scores, scores.detach() > threshold)


def signed(scores: Tensor, threshold: float) -> Tensor:
    """1 where a score lies above the threshold, -1 where it is negative, else 0."""
    values = scores.detach()
    return _decided(scores, (values > threshold).to(values.dtype) - (values < 0).to(values.dtype))


def largest(scores: Tensor, fraction: float) -> Tensor:
    """1 for the ``fraction`` of the tensor's scores that is largest in size, else 0.

    The gradient is that of the sizes, which a negative score turns round.
    """
    sizes = scores.abs()
    flat = sizes.detach().flatten()
    kept = flat.topk(max(1, round(fraction * flat.numel())), sorted=False).indices
    return _decided(sizes, torch.zeros_like(flat).index_fill_(0, kept, 1).view_as(sizes))


def erdos_renyi(shape: torch.Size, scale: float) -> float:
    """The share of a layer's weights ``[outputs, inputs, *kernel]`` that a sparse network keeps, at most one half.

    Evci et al., "Rigging the lottery", ICML 2020 (arXiv 1911.11134), give a layer connections in proportion to its
    inputs and outputs; as the code of Wortsman et al. 2020, whose scale and cut at one half these are.
    """
    return min(0.5, scale * (shape[0] + shape[1]) / shape.numel())


class MaskedWeights:
    """The weights of a module's linear and convolutional layers, which masks let through or not.

    Biases and norm layers have no masks. The module itself is never written to.

    Args:
        module: holds the weights.

    Attributes:
        shapes: name -> shape of each weight, in the order of the packed bits.
        numel: how many weights there are.

    Raises:
        MethodError: there is nothing to mask.
    """

    def __init__(self, module: nn.Module) -> None:
        kinds = (nn.Linear, nn.Conv2d, GrowingHead)
        names = [f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, kinds)]
        if not names:
            raise MethodError("masks need linear or convolutional layers; give the model a hidden layer")
        self._module = module
        self.shapes = {name: module.get_parameter(name).shape for name in names}
        self.numel = sum(shape.numel() for shape in self.shapes.values())

    def weights(self) -> dict[str, Tensor]:
        """The weights by name, as they stand in the module."""
        return {name: self._module.get_parameter(name) for name in self.shapes}

    def flat(self) -> Tensor:
        """A copy of all weights, ``[numel]``."""
        return torch.cat([weight.detach().flatten() for weight in self.weights().values()])

    def apply(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """W * mask by name, for ``torch.func.functional_call``."""
        return {name: weight * masks[name] for name, weight in self.weights().items()}

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """``[numel]`` -> name -> view in the weight's shape."""
        return split(flat, self.shapes)

    def pack(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Entries other than 0 as bits: uint8 ``[ceil(numel / 8)]``."""
        flat = torch.cat([masks[name].detach().flatten() != 0 for name in self.shapes])
        bits = nn.functional.pad(flat.to(torch.uint8), (0, -self.numel % BITS)).view(-1, BITS)
        return (bits * _powers(bits.device)).sum(1, dtype=torch.uint8)

    def unpack(self, bits: Tensor) -> Tensor:
        """Packed bits ``[*masks, ceil(numel / 8)]`` -> bool ``[*masks, numel]``."""
        return (bits[..., None] & _powers(bits.device)).ne(0).flatten(-2)[..., : self.numel]


def _powers(device: torch.device) -> Tensor:
    return 2 ** torch.arange(BITS, dtype=torch.uint8, device=device)


class RunningStatistics:
    """Running means and variances of a module's norm layers, as one vector.

    Args:
        module: holds them; they are written to by :meth:`reset` alone.

    Attributes:
        numel: how many numbers they are; 0 for modules without any.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._shapes = {name: value.shape for name, value in module.named_buffers() if value.is_floating_point()}
        self.numel = sum(shape.numel() for shape in self._shapes.values())

    def reset(self) -> None:
        """As in a new module."""
        for layer in self._module.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.reset_running_stats()

    def flat(self) -> Tensor:
        """A copy, ``[numel]``."""
        parts = [self._module.get_buffer(name).flatten() for name in self._shapes]
        return torch.cat(parts) if parts else torch.empty(0, device=next(self._module.parameters()).device)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """``[numel]`` -> name -> view in the buffer's shape."""
        return split(flat, self._shapes)


def split(flat: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """A vector -> name -> view of the part that belongs to it."""
    parts = flat.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


@torch.no_grad()
def fix_signed_constants(module: nn.Module, seed: int) -> None:
    """Make of a module one that never learns, all of which follows from a seed.

    Each weight of a linear or convolutional layer is sqrt(2 / fan_in) with a random sign, and biases are 0. Norm layers
    keep their initial scale 1 and shift 0.
    """
    generator = torch.Generator().manual_seed(seed)
    for weight in MaskedWeights(module).weights().values():
        size = math.sqrt(2 / weight[0].numel())
        sign = torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1
        weight.copy_(sign * size)
    for layer in module.modules():
        bias = getattr(layer, "bias", None)
        if isinstance(bias, Tensor):
            bias.zero_()
    module.requires_grad_(False)
