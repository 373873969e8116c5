"""Gradients by the parameters of one layer, given the gradients by that layer's output: of single examples, and sums.

Of single examples, convolutions are a matrix product, of the output's gradients with the patches that the kernel saw;
any other layer goes through its own Jacobian product, vectorised over examples by ``torch.func``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from raycl.models.network import GrowingHead

KEPT_NUMBERS = 1 << 24
"""At most so many numbers of patches are kept from one gradient of the outputs to the next."""


@dataclass(frozen=True)
class LayerCall:
    """One use of a layer: its inputs, its output, and its trainable parameters.

    Attributes:
        inputs: ``[batch, *]`` each, without their graph.
        output: ``[batch, *]``, in its graph.
        names: the layer's own name of a parameter -> the network's.
    """

    layer: nn.Module
    inputs: tuple[Any, ...]
    output: Tensor
    names: Mapping[str, str]

    @property
    def is_linear(self) -> bool:
        """Whether a row of the output is one matrix product: that of a head of cosines, or over sequences, is not."""
        layer = self.layer
        affine = layer.affine if isinstance(layer, GrowingHead) else isinstance(layer, nn.Linear)
        return affine and self.output.dim() == 2

    def local(self, name: str) -> str:
        """The layer's own name of a parameter of the network."""
        return next(key for key, value in self.names.items() if value == name)

    def parameter(self, name: str) -> Tensor:
        found: Tensor = getattr(self.layer, self.local(name))
        return found

    def numbers(self, name: str) -> int:
        """Numbers held for one example while its gradient by a parameter is formed."""
        parameter = self.parameter(name)
        if not self._by_patches(name):
            return parameter.numel()
        kernel, positions = parameter[0].numel(), self.output[0, 0].numel()
        return max(parameter.numel(), kernel * positions)

    def gradients(self, delta: Tensor, rows: slice, name: str, patches: Patches) -> Tensor:
        """Gradients ``[rows, *shape]`` by one parameter, given those by the layer's output ``[rows, ...]``."""
        local = self.local(name)
        if self._by_patches(name):
            outputs, inputs, *kernel = self.parameter(name).shape
            # [rows, outputs, positions] @ [rows, positions, kernel * inputs]
            product = delta.flatten(2) @ patches.of(self, rows)
            return product.view(-1, outputs, *kernel, inputs).permute(0, 1, 4, 2, 3)
        if isinstance(self.layer, nn.Conv2d) and local == "bias":
            return delta.flatten(2).sum(2)
        return _vectorised(self.layer, local, tuple(value[rows] for value in self.inputs), delta)

    def summed(self, delta: Tensor, rows: slice) -> dict[str, Tensor]:
        """Gradients by the layer's parameters, summed over some rows, given those by its output ``[rows, ...]``."""
        inputs = tuple(value[rows] for value in self.inputs)
        own = {local: self.parameter(name).detach().requires_grad_() for local, name in self.names.items()}
        with torch.enable_grad():
            output = _again(self.layer, own, inputs)
        found = torch.autograd.grad(output, list(own.values()), delta)
        return dict(zip(self.names.values(), found, strict=True))

    def _by_patches(self, name: str) -> bool:
        """Whether the gradients of single examples by a parameter are a product with patches."""
        return _is_plain_convolution(self.layer) and self.layer.groups == 1 and self.local(name) == "weight"


@contextmanager
def recorded_calls(network: nn.Module, names: Mapping[int, str]) -> Iterator[list[LayerCall]]:
    """Collect every use of a layer that owns some of the parameters.

    Args:
        names: the network's names of the parameters, by ``id``.
    """
    calls: list[LayerCall] = []

    def record(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        parameters = layer.named_parameters(recurse=False)
        own = {local: names[id(parameter)] for local, parameter in parameters if id(parameter) in names}
        calls.append(LayerCall(layer, tuple(value.detach() for value in inputs), output, own))
        return output.clone()  # a following in-place ReLU must not change what was recorded

    def owns(layer: nn.Module) -> bool:
        return any(id(parameter) in names for parameter in layer.parameters(recurse=False))

    handles = [layer.register_forward_hook(record) for layer in network.modules() if owns(layer)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _is_plain_convolution(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it pads with so many zeros, which is what is worked out here; modes and words are left to torch."""
    return isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


class Patches:
    """What the kernels of convolutions saw, kept while there is room: each label of ``exact`` asks for it again."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int, int], Tensor] = {}
        self._room = KEPT_NUMBERS

    def of(self, call: LayerCall, rows: slice) -> Tensor:
        """The patches of a call's rows, ``[rows, positions, kernel * inputs]``."""
        key = (id(call), rows.start, rows.stop)
        if key not in self._kept:
            found = _patches(call.layer, call.inputs[0][rows], call.output.shape[2:])
            if found.numel() > self._room:
                return found
            self._room -= found.numel()
            self._kept[key] = found
        return self._kept[key]


class _Bare(nn.Module):
    """A layer without its hooks: what they would do has been done when it ran first."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> Tensor:
        output: Tensor = self.layer.forward(*inputs)
        return output


def _again(layer: nn.Module, parameters: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
    """The layer's output once more, as a function of parameters that are given."""
    named = {f"layer.{name}": value for name, value in parameters.items()}
    output: Tensor = torch.func.functional_call(_Bare(layer), named, inputs)
    return output


def _patches(layer: nn.Module, x: Tensor, positions: torch.Size) -> Tensor:
    """``[rows, positions, kernel * inputs]``; channels last, so that runs are copied, which ``unfold`` does not."""
    assert isinstance(layer, nn.Conv2d)
    assert not isinstance(layer.padding, str)
    (down, right), (high, wide) = layer.padding, layer.kernel_size
    padded = nn.functional.pad(x, (right, right, down, down)).permute(0, 2, 3, 1).contiguous()
    example, row, column, channel = padded.stride()
    # a view [rows, *positions, *kernel, inputs]: a step of the kernel's place, and a step within the kernel
    place = (row * layer.stride[0], column * layer.stride[1])
    within = (row * layer.dilation[0], column * layer.dilation[1])
    shape = (len(x), *positions, high, wide, x.shape[1])
    seen = padded.as_strided(shape, (example, *place, *within, channel))
    return seen.reshape(len(x), positions.numel(), -1)


def _vectorised(layer: nn.Module, local: str, inputs: tuple[Tensor, ...], delta: Tensor) -> Tensor:
    """Gradients ``[rows, *shape]`` by one parameter of any layer, each row's by a Jacobian product of its own."""
    parameters = {key: p.detach() for key, p in layer.named_parameters()}

    def gradient(inputs: tuple[Tensor, ...], delta: Tensor) -> Tensor:
        def output(parameter: Tensor) -> Tensor:
            single = tuple(value[None] for value in inputs)
            return _again(layer, {**parameters, local: parameter}, single)

        pull: Callable[[Tensor], tuple[Tensor]] = torch.func.vjp(output, parameters[local])[1]
        return pull(delta[None])[0]

    result: Tensor = torch.func.vmap(gradient)(inputs, delta)
    return result
