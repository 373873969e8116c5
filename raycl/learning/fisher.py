"""The diagonal of the Fisher information of a classifier, per example and vectorised.

For one example, ``exact``: F_k = sum over y of p(y|x) (d log p(y|x) / d theta_k)^2; ``sampled``: the square at one
y ~ p(y|x); ``empirical``: the square at the true label. The mean over examples is taken of squares, never the square of
a mean: that would be about B times too small for batches of B examples.

No gradient per example is formed where a closed form exists: a linear layer with inputs a and output gradients g has
the weight gradient g a^T for each example, so that the squares sum to (g^2)^T a^2, one matrix product a layer.
Convolutions are a matrix product per example; any other layer goes through its own vectorised Jacobian product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.models.network import GrowingHead, frozen_statistics
from raycl.streams.task import Batch

FisherLabels = Literal["exact", "sampled", "empirical"]

BLOCK_NUMBERS = 1 << 23
"""At most so many numbers are held for gradients per example at once."""


def diagonal_fisher(
    network: nn.Module,
    batches: Iterable[Batch],
    active: Callable[[Batch], Tensor],
    labels: FisherLabels,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The mean over all rows of the squared gradients of log p, in evaluation mode.

    Args:
        network: float ``[batch, ...]`` -> logits ``[batch, outputs]``; rows must not depend on one another.
        batches: their size bounds the memory, and moves nothing else.
        active: bool ``[batch, outputs]``, the units inside the softmax: those of training.
        generator: draws the labels of ``sampled``.

    Returns:
        One tensor per trainable parameter, by name, in the parameter's shape.

    Raises:
        MethodError: there are no rows, or a trainable parameter is used outside the layer that owns it.
    """
    names = {id(p): name for name, p in network.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in network.named_parameters() if p.requires_grad}
    rows = 0
    with frozen_statistics(network), torch.enable_grad():
        for batch in batches:
            rows += len(batch)
            _add_squares(sums, names, network, batch, active(batch), labels, generator)
    if rows == 0:
        raise MethodError("Fisher information: the task has no training examples; give it some or drop the task")
    return {name: total / rows for name, total in sums.items()}


@dataclass(frozen=True)
class _Call:
    """One use of a layer: its inputs, its output, and the network's names of its trainable parameters."""

    layer: nn.Module
    inputs: tuple[Any, ...]
    output: Tensor
    names: Mapping[str, str]

    @property
    def is_linear(self) -> bool:
        return isinstance(self.layer, (nn.Linear, GrowingHead)) and self.output.dim() == 2


def _add_squares(
    sums: dict[str, Tensor],
    names: Mapping[int, str],
    network: nn.Module,
    batch: Batch,
    active: Tensor,
    labels: FisherLabels,
    generator: torch.Generator,
) -> None:
    """Add the sum over the batch's rows to ``sums``."""
    with _recorded(network, names) as calls:
        logits = network(batch.x)
    uses = [name for call in calls for name in call.names.values()]
    if missing := sorted(set(sums) - set(uses)):
        raise MethodError(f"Fisher information: {missing[0]} is used outside the layer that owns it, or not at all")
    closed = [call.is_linear and all(uses.count(name) == 1 for name in call.names.values()) for call in calls]
    outputs = [call.output for call in calls]
    squares: dict[int, Tensor] = {}
    for seed in _logit_gradients(logits.detach(), batch.y, active, labels, generator):
        deltas = torch.autograd.grad(logits, outputs, seed, retain_graph=True, materialize_grads=True)
        rest = []
        for index, (call, delta) in enumerate(zip(calls, deltas, strict=True)):
            if closed[index]:
                squares[index] = squares[index].addcmul_(delta, delta) if index in squares else delta.square()
            else:
                rest.append((call, delta))
        _add_per_example(sums, rest)
    for index, squared in squares.items():
        _add_linear(sums, calls[index], squared)


@contextmanager
def _recorded(network: nn.Module, names: Mapping[int, str]) -> Iterator[list[_Call]]:
    """Collect every use of a layer that owns trainable parameters."""
    calls: list[_Call] = []

    def record(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        own = {name: names[id(p)] for name, p in layer.named_parameters(recurse=False) if id(p) in names}
        detached = tuple(value.detach() for value in inputs)
        calls.append(_Call(layer, detached, output, own))
        return output.clone()  # a following in-place ReLU must not change what was recorded

    owners = [layer for layer in network.modules() if any(id(p) in names for p in layer.parameters(recurse=False))]
    handles = [layer.register_forward_hook(record) for layer in owners]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _logit_gradients(
    logits: Tensor, y: Tensor, active: Tensor, labels: FisherLabels, generator: torch.Generator
) -> Iterator[Tensor]:
    """Gradients ``[batch, outputs]`` of log p by the logits, e_y - p; for ``exact`` one per class, times sqrt(p_y)."""
    p = logits.masked_fill(~active, float("-inf")).softmax(1)
    if labels == "exact":
        for unit in active.any(0).nonzero().flatten().tolist():
            gradient = -p
            gradient[:, unit] += 1
            yield gradient * p[:, unit, None].sqrt()
        return
    if labels == "sampled":
        y = torch.multinomial(p.cpu(), 1, generator=generator).flatten().to(y.device)
    yield nn.functional.one_hot(y, logits.shape[1]) - p


def _add_linear(sums: dict[str, Tensor], call: _Call, squared: Tensor) -> None:
    """``squared`` ``[batch, outputs]``: squares of the output gradients, summed over labels."""
    if "weight" in call.names:
        sums[call.names["weight"]].addmm_(squared.T, call.inputs[0].square())
    if "bias" in call.names:
        sums[call.names["bias"]] += squared.sum(0)


def _add_per_example(sums: dict[str, Tensor], calls: list[tuple[_Call, Tensor]]) -> None:
    """Add squares of gradients per example; uses of one parameter add up before they are squared."""
    largest = {name: sums[name].numel() for call, _ in calls for name in call.names.values()}
    for name in largest:
        using = [(call, delta) for call, delta in calls if name in call.names.values()]
        block = max(1, BLOCK_NUMBERS // largest[name])
        for start in range(0, len(using[0][1]), block):
            rows = slice(start, start + block)
            parts = [_per_example(call, delta[rows], rows, name) for call, delta in using]
            sums[name] += torch.stack(parts).sum(0).square().sum(0) if len(parts) > 1 else parts[0].square().sum(0)


def _per_example(call: _Call, delta: Tensor, rows: slice, name: str) -> Tensor:
    """Gradients ``[rows, *shape]`` of one parameter, given those of the layer's output ``[rows, ...]``."""
    layer = call.layer
    local = next(key for key, value in call.names.items() if value == name)
    inputs = tuple(value[rows] for value in call.inputs)
    if isinstance(layer, nn.Conv2d) and local == "bias":
        return delta.flatten(2).sum(2)
    if (
        isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    ):  # patches: [rows, inputs * kernel, positions]
        patches = nn.functional.unfold(inputs[0], layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return (delta.flatten(2) @ patches.mT).view(-1, *layer.weight.shape)
    parameters = {key: p.detach() for key, p in layer.named_parameters()}

    def gradient(inputs: tuple[Tensor, ...], delta: Tensor) -> Tensor:
        def output(parameter: Tensor) -> Tensor:
            single = tuple(value[None] for value in inputs)
            result: Tensor = torch.func.functional_call(layer, {**parameters, local: parameter}, single)
            return result

        pull: Callable[[Tensor], tuple[Tensor]] = torch.func.vjp(output, parameters[local])[1]
        return pull(delta[None])[0]

    result: Tensor = torch.func.vmap(gradient)(inputs, delta)
    return result
