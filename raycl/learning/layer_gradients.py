"""Gradients by the parameters of one layer, given the gradients by that layer's output: of single examples, and sums.

Of single examples, convolutions are a matrix product, of the output's gradients with the patches that the kernel saw;
any other layer goes through its own Jacobian product, vectorised over examples by ``torch.func``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from raycl.models.network import GrowingHead

KEPT_NUMBERS = 1 << 24
"""At most so many numbers of patches are kept from one gradient of the outputs to the next."""


@dataclass(frozen=True)
class LayerCall:
    """One use of a layer: its inputs, its output, and the network's names of its trainable parameters."""

    layer: nn.Module
    inputs: tuple[Any, ...]
    output: Tensor
    names: Mapping[str, str]

    @property
    def is_linear(self) -> bool:
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
        patches = parameter[0].numel() * self.output[0, 0].numel() if self._by_patches(name) else 0
        return max(parameter.numel(), patches)

    def gradients(self, delta: Tensor, rows: slice, name: str, patches: Patches) -> Tensor:
        """Gradients ``[rows, *shape]`` by one parameter, given those by the layer's output ``[rows, ...]``."""
        if self._by_patches(name):
            outputs, inputs, *kernel = self.parameter(name).shape
            product = delta.flatten(2) @ patches.of(self, rows)
            return product.view(-1, outputs, *kernel, inputs).permute(0, 1, 4, 2, 3)
        if isinstance(self.layer, nn.Conv2d) and self.local(name) == "bias":
            return delta.flatten(2).sum(2)
        return _vectorised(self.layer, self.local(name), tuple(value[rows] for value in self.inputs), delta)

    def summed(self, delta: Tensor, rows: slice) -> dict[str, Tensor]:
        """Gradients by the layer's parameters, summed over some rows, given those by its output ``[rows, ...]``."""
        layer, inputs = self.layer, tuple(value[rows] for value in self.inputs)
        own = {local: getattr(layer, local).detach().requires_grad_() for local in self.names}
        if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            found = [_of_convolution(layer, local, inputs[0], delta) for local in own]
        else:
            with torch.enable_grad():
                output = _again(layer, own, inputs)
            found = list(torch.autograd.grad(output, list(own.values()), delta))
        return dict(zip(self.names.values(), found, strict=True))

    def _by_patches(self, name: str) -> bool:
        layer = self.layer
        return (
            isinstance(layer, nn.Conv2d)
            and layer.groups == 1
            and layer.padding_mode == "zeros"
            and not isinstance(layer.padding, str)
            and self.local(name) == "weight"
        )


@contextmanager
def recorded_calls(network: nn.Module, names: Mapping[int, str]) -> Iterator[list[LayerCall]]:
    """Collect every use of a layer that owns some of the parameters.

    Args:
        names: the network's names of the parameters, by ``id``.
    """
    calls: list[LayerCall] = []

    def record(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        own = {name: names[id(p)] for name, p in layer.named_parameters(recurse=False) if id(p) in names}
        detached = tuple(value.detach() for value in inputs)
        calls.append(LayerCall(layer, detached, output, own))
        return output.clone()  # a following in-place ReLU must not change what was recorded

    owners = [layer for layer in network.modules() if any(id(p) in names for p in layer.parameters(recurse=False))]
    handles = [layer.register_forward_hook(record) for layer in owners]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


class Patches:
    """What the kernels of convolutions saw, kept while there is room: each label of ``exact`` asks for it again."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int, int], Tensor] = {}
        self._room = KEPT_NUMBERS

    def of(self, call: LayerCall, rows: slice) -> Tensor:
        """``[rows, positions, kernel * inputs]``."""
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


def _of_convolution(layer: nn.Conv2d, local: str, x: Tensor, delta: Tensor) -> Tensor:
    """The gradient by the weight or the bias, summed over rows, without running the layer again."""
    if local == "bias":
        return delta.sum((0, 2, 3))
    assert not isinstance(layer.padding, str)
    size = list(layer.weight.shape)
    found: Tensor = conv2d_weight(x, size, delta, layer.stride, layer.padding, layer.dilation, layer.groups)
    return found


def _patches(layer: nn.Module, x: Tensor, positions: torch.Size) -> Tensor:
    """``[rows, positions, kernel * inputs]``; channels last, so that runs are copied, which ``unfold`` does not."""
    assert isinstance(layer, nn.Conv2d)
    assert not isinstance(layer.padding, str)
    (down, right), (high, wide) = layer.padding, layer.kernel_size
    padded = nn.functional.pad(x, (right, right, down, down)).permute(0, 2, 3, 1).contiguous()
    example, row, column, channel = padded.stride()
    steps = (row * layer.stride[0], column * layer.stride[1], row * layer.dilation[0], column * layer.dilation[1])
    seen = padded.as_strided((len(x), *positions, high, wide, x.shape[1]), (example, *steps, channel))
    return seen.reshape(len(x), positions.numel(), -1)


def _vectorised(layer: nn.Module, local: str, inputs: tuple[Tensor, ...], delta: Tensor) -> Tensor:
    parameters = {key: p.detach() for key, p in layer.named_parameters()}

    def gradient(inputs: tuple[Tensor, ...], delta: Tensor) -> Tensor:
        def output(parameter: Tensor) -> Tensor:
            single = tuple(value[None] for value in inputs)
            return _again(layer, {**parameters, local: parameter}, single)

        pull: Callable[[Tensor], tuple[Tensor]] = torch.func.vjp(output, parameters[local])[1]
        return pull(delta[None])[0]

    result: Tensor = torch.func.vmap(gradient)(inputs, delta)
    return result
