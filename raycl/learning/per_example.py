"""The mean over examples of squared, or absolute, gradients of single examples, vectorised.

It is never the power of a mean: in a batch of B examples that would be about B times too small for squares, and
examples would cancel in absolute values.

No gradient per example is formed where a closed form exists: a linear layer with inputs a and output gradients g has
the weight gradient g a^T for each example, so that the powers sum to (|g|^p)^T |a|^p, one matrix product a layer and
exact. Every other layer is left to :mod:`raycl.learning.layer_gradients`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.learning.layer_gradients import LayerCall, Patches, recorded_calls
from raycl.models.network import frozen_statistics
from raycl.streams.task import Batch

Power = Literal["square", "absolute"]
OutputGradients = Callable[[Tensor, Batch], Iterator[Tensor]]
"""Logits ``[batch, outputs]`` and their batch -> gradients by the logits, one function of the outputs after another."""

AddBatch = Callable[[dict[str, Tensor], list[LayerCall], Tensor, Batch], None]
"""Sums by parameter, the layers' uses, the logits and their batch: adds the sum over the batch's rows."""

BLOCK_NUMBERS = 1 << 23
"""At most so many numbers are held for gradients per example at once."""


def mean_power_of_gradients(
    network: nn.Module, batches: Iterable[Batch], output_gradients: OutputGradients, power: Power
) -> dict[str, Tensor]:
    """The mean over all rows of |d h(f(x)) / d theta|^p, summed over the functions h, in evaluation mode.

    Args:
        network: float ``[batch, ...]`` -> logits ``[batch, outputs]``; rows must not depend on one another.
        batches: their size bounds the memory, and moves nothing else.
        output_gradients: dh / df for each h.

    Returns:
        One tensor per trainable parameter, by name, in the parameter's shape.

    Raises:
        MethodError: there are no rows, or a trainable parameter is used outside the layer that owns it.
    """

    def add(sums: dict[str, Tensor], calls: list[LayerCall], logits: Tensor, batch: Batch) -> None:
        _add_batch(sums, calls, logits, output_gradients(logits.detach(), batch), power)

    with torch.enable_grad():
        return mean_over_rows(network, batches, add)


def gradients_of_rows(
    network: nn.Module, batches: Iterable[Batch], output_gradients: OutputGradients
) -> Iterator[Tensor]:
    """The gradients themselves, dh(f(x)) / d theta by all trainable parameters in order, in evaluation mode.

    Yields:
        ``[rows, numel]``, a few rows at a time; one function h of all rows of a batch before the next.

    Raises:
        MethodError: a trainable parameter is used outside the layer that owns it.
    """
    names = {id(p): name for name, p in network.named_parameters() if p.requires_grad}
    numel = sum(p.numel() for p in network.parameters() if p.requires_grad)
    size = max(1, BLOCK_NUMBERS // numel)
    for batch in batches:
        with torch.enable_grad(), frozen_statistics(network), recorded_calls(network, names) as calls:
            logits = network(batch.x)
        _check_uses(names.values(), calls)
        outputs, patches = [call.output for call in calls], Patches()
        for seed in output_gradients(logits.detach(), batch):
            deltas = torch.autograd.grad(logits, outputs, seed, retain_graph=True, materialize_grads=True)
            uses = list(zip(calls, deltas, strict=True))
            for start in range(0, len(seed), size):
                rows = slice(start, start + size)
                with frozen_statistics(network):  # layers run again
                    parts = [_of_rows(name, uses, rows, patches).flatten(1) for name in names.values()]
                yield torch.cat(parts, dim=1)


Use = tuple[LayerCall, Tensor]
"""A use of a layer, and the gradients by its output ``[batch, ...]``."""


def _of_rows(name: str, uses: Sequence[Use], rows: slice, patches: Patches) -> Tensor:
    """Gradients ``[rows, *shape]`` by one parameter, summed over all its uses."""
    using = ((call, delta) for call, delta in uses if name in call.names.values())
    first, *others = (call.gradients(delta[rows], rows, name, patches) for call, delta in using)
    return sum(others, first)


def _check_uses(names: Iterable[str], calls: Sequence[LayerCall]) -> None:
    uses = {name for call in calls for name in call.names.values()}
    if missing := sorted(set(names) - uses):
        rule = "is used outside the layer that owns it, or not at all"
        raise MethodError(f"importance of parameters: {missing[0]} {rule}")


def mean_over_rows(network: nn.Module, batches: Iterable[Batch], add: AddBatch) -> dict[str, Tensor]:
    """The mean over all rows of what ``add`` makes of each batch, in evaluation mode.

    Returns:
        One tensor per trainable parameter, by name, in the parameter's shape.

    Raises:
        MethodError: there are no rows.
    """
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    names = {id(p): name for name, p in named.items()}
    sums = {name: torch.zeros_like(p) for name, p in named.items()}
    rows = 0
    with frozen_statistics(network):
        for batch in batches:
            rows += len(batch)
            with recorded_calls(network, names) as calls:
                logits = network(batch.x)
            add(sums, calls, logits, batch)
    if rows == 0:
        raise MethodError("importance of parameters: the task has no training examples; give it some or drop the task")
    return {name: total / rows for name, total in sums.items()}


def _add_batch(
    sums: dict[str, Tensor], calls: list[LayerCall], logits: Tensor, seeds: Iterator[Tensor], power: Power
) -> None:
    """Add the sum over the batch's rows to ``sums``."""
    uses = [name for call in calls for name in call.names.values()]
    _check_uses(sums, calls)
    closed = [call.is_linear and all(uses.count(name) == 1 for name in call.names.values()) for call in calls]
    outputs = [call.output for call in calls]
    powers: dict[int, Tensor] = {}
    patches = Patches()
    for seed in seeds:
        deltas = torch.autograd.grad(logits, outputs, seed, retain_graph=True, materialize_grads=True)
        rest = []
        for index, (call, delta) in enumerate(zip(calls, deltas, strict=True)):
            if not closed[index]:
                rest.append((call, delta))
            elif index in powers:
                powers[index] += _raised(delta, power)
            else:
                powers[index] = _raised(delta, power)
        _add_per_example(sums, rest, patches, power)
    for index, total in powers.items():
        add_linear(sums, calls[index], total, power)


def _raised(value: Tensor, power: Power) -> Tensor:
    return value.square() if power == "square" else value.abs()


def add_linear(sums: dict[str, Tensor], call: LayerCall, powers: Tensor, power: Power) -> None:
    """Add a linear layer's share, given ``[batch, outputs]``: powers of its errors, summed over all functions."""
    if "weight" in call.names:
        sums[call.names["weight"]].addmm_(powers.T, _raised(call.inputs[0], power))
    if "bias" in call.names:
        sums[call.names["bias"]] += powers.sum(0)


def _add_per_example(sums: dict[str, Tensor], calls: list[Use], patches: Patches, power: Power) -> None:
    """Form gradients per example, a block of rows at a time; uses of one parameter add up before the power is taken."""
    for name in {name: None for call, _ in calls for name in call.names.values()}:
        using = [(call, delta) for call, delta in calls if name in call.names.values()]
        block = max(1, BLOCK_NUMBERS // max(call.numbers(name) for call, _ in using))
        for start in range(0, len(using[0][1]), block):
            found = _of_rows(name, using, slice(start, start + block), patches)
            sums[name] += _raised(found, power).sum(0)
