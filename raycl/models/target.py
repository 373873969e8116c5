"""A target network: the sweep's model as a pure function of weights that something else makes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from raycl.models.network import Network

Buffers = dict[str, Tensor]
"""Buffers by name, such as running statistics of batch normalisation; updated in place in training mode."""


class TargetNetwork:
    """A network that owns no weights: one flat vector holds all of them, in the order of ``named_parameters``.

    Args:
        network: gives the structure. It is taken over: its own weights are dropped.
        outputs: output units of the head.
        input_shape: of one row that goes in: channels, height, width of an image, or of an activation.

    Attributes:
        shapes: name -> shape of each weight tensor; the head's come last.
        numel: D, the number of weights.
        floats_coming_in, floats_per_row: numbers in a row, and in all that layers make of one.
        network: the structure on torch's meta device; its training mode is that of the target.
    """

    def __init__(self, network: Network, outputs: int, input_shape: tuple[int, ...]) -> None:
        network.grow_head(outputs)
        self.shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
        self.numel = sum(shape.numel() for shape in self.shapes.values())
        self._state = {name: buffer.detach().clone() for name, buffer in network.named_buffers()}
        self.floats_coming_in = math.prod(input_shape)
        self.floats_per_row = _activations(network, input_shape)
        self.network = network.to("meta")

    @property
    def variances(self) -> list[float] | None:
        """With which its tensors would start by themselves: 2 / fan_in before a ReLU (He et al. 2015), 1 / fan_in in
        the head, 0 for biases. None where a norm has weights, whose start is no draw."""
        found = []
        for name, shape in self.shapes.items():
            if name.endswith("weight") and len(shape) == 1:
                return None
            fan_in = shape[1:].numel()
            found.append(0.0 if len(shape) == 1 else (1.0 if name.startswith("head.") else 2.0) / fan_in)
        return found

    def new_state(self, device: torch.device) -> Buffers:
        """Buffers as a new network has them; empty for models without any."""
        return {name: buffer.to(device, copy=True) for name, buffer in self._state.items()}

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Weights ``[*sets, numel]`` -> name -> ``[*sets, *shape]``, views."""
        parts = torch.split(flat, [shape.numel() for shape in self.shapes.values()], dim=-1)
        return {
            name: part.view(*part.shape[:-1], *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def forward(self, flat: Tensor, state: Buffers, x: Tensor) -> Tensor:
        """Weights ``[numel]`` and images ``[batch, channels, height, width]`` -> logits ``[batch, outputs]``."""
        logits: Tensor = functional_call(self.network, {**self.split(flat), **state}, (x,))
        return logits

    def built(self, flat: Tensor, state: Buffers) -> Network:
        """An ordinary network with these weights ``[numel]`` and buffers, which it has for itself."""
        network = deepcopy(self.network).to_empty(device=flat.device)
        network.load_state_dict({**self.split(flat), **state})
        return network

    def forward_many(self, flat: Tensor, states: Sequence[Buffers], x: Tensor) -> Tensor:
        """Weight sets ``[sets, numel]`` and the same images for all -> logits ``[sets, batch, outputs]``.

        For evaluation mode: running statistics are read and never written.
        """
        stacked = {name: torch.stack([state[name] for state in states]) for name in self._state}
        weights: Mapping[str, Tensor] = {**self.split(flat), **stacked}

        def one(own: Mapping[str, Tensor]) -> Tensor:
            logits: Tensor = functional_call(self.network, dict(own), (x,))
            return logits

        outputs: Tensor = vmap(one)(weights)
        return outputs

    def beyond(self, units: int) -> list[slice]:
        """Where in the flat vector the weights of the head's units ``units``, ``units + 1``, ... lie."""
        weight, biases = self.shapes["head.weight"], self.shapes.get("head.bias", torch.Size([0])).numel()
        if units >= weight[0]:
            return []
        weight_stop = self.numel - biases
        rows = slice(weight_stop - weight.numel() + units * weight[1], weight_stop)
        return [rows, slice(weight_stop + units, self.numel)] if biases else [rows]


@torch.no_grad()
def _activations(network: Network, input_shape: tuple[int, ...]) -> int:
    """Numbers that all layers put out for one row, the row included.

    Counted while the network has its weights: on the meta device, a linear layer imports torch's compiler.
    """
    counts = [math.prod(input_shape)]

    def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        counts.append(output[0].numel())

    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    training = network.training
    network.eval()
    network(torch.zeros(1, *input_shape))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return sum(counts)
