"""The gradient of the mean loss of each of several groups of rows, from one pass forward and one pass back.

The gradient by a layer's weights is a sum over rows, of products of what the layer saw and of the gradients by its
output. So one pass over all rows serves every group: only these sums are taken apart. For linear layers they need not
be formed: inputs and errors of all rows are their factors, and give their products and their mixtures
(:class:`GroupGradients`). Any other layer sums its rows group by group. With convolutions every group takes a pass of
its own: their sums have no product in common, and a batch of all groups only leaves the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from raycl.learning.layer_gradients import LayerCall, recorded_calls
from raycl.models.network import frozen_statistics

RowLosses = Callable[[slice, Tensor], Tensor]
"""Which rows, and their logits ``[n, outputs]`` -> their losses ``[n]``."""

GROUPED_NUMBERS = 1 << 23
"""About so many numbers of inputs and outputs of layers are held at once; groups beyond go into a pass of their own."""

PASSES_OVER_NUMBERS = 100
"""What it costs to write one number of a gradient and to read it for the products, in multiplications of a matrix
product: memory gives a number in the time of about 20, and is gone through five times."""


@dataclass(frozen=True)
class Factors:
    """The gradients of groups by one linear layer, unformed.

    Attributes:
        errors, inputs: ``[groups, rows, features]``, gradients by the layer's outputs, and what it saw.
        weight, bias: their columns in a flat gradient; None: it does not learn.
    """

    errors: Tensor
    inputs: Tensor
    weight: slice | None
    bias: slice | None

    def gram(self) -> Tensor:
        """The products of all pairs of gradients, ``[groups, groups]``."""
        groups, rows, _ = self.errors.shape
        errors, inputs = self.errors.flatten(0, 1), self.inputs.flatten(0, 1)
        alike = inputs @ inputs.T if self.weight else inputs.new_zeros(len(inputs), len(inputs))
        pairs = (errors @ errors.T) * (alike + 1 if self.bias else alike)
        return pairs.view(groups, rows, groups, rows).sum((1, 3))

    def products(self, gradient: Tensor) -> Tensor:
        """The products with a flat gradient, ``[groups]``."""
        found = self.errors.new_zeros(len(self.errors))
        if self.weight:
            matrix = gradient[self.weight].view(self.errors.shape[2], -1)
            found += ((self.errors @ matrix) * self.inputs).sum((1, 2))
        return found + self.errors.sum(1) @ gradient[self.bias] if self.bias else found

    def add_mixture(self, gradient: Tensor, weights: Tensor) -> None:
        """Add the gradients times their weights ``[groups]`` to a flat gradient."""
        errors = (self.errors * weights[:, None, None]).flatten(0, 1)
        if self.weight:
            gradient[self.weight].view(errors.shape[1], -1).addmm_(errors.T, self.inputs.flatten(0, 1))
        if self.bias:
            gradient[self.bias] += errors.sum(0)


@dataclass(frozen=True)
class GroupGradients:
    """Gradients ``[groups, parameters]``, by their products and mixtures.

    Attributes:
        formed: columns of a flat gradient -> ``[groups, numbers]``, of the parameters that have them.
        factors: of the linear layers that have not.
    """

    formed: Mapping[tuple[int, int], Tensor]
    factors: Sequence[Factors]

    def gram(self) -> Tensor:
        """``[groups, groups]``, the products of all pairs."""
        formed = [values @ values.T for values in self.formed.values()]
        return torch.stack([*formed, *(factors.gram() for factors in self.factors)]).sum(0)

    def products(self, gradient: Tensor) -> Tensor:
        """``[groups]``, the products with a gradient ``[parameters]``."""
        formed = [values @ gradient[slice(*columns)] for columns, values in self.formed.items()]
        return torch.stack([*formed, *(factors.products(gradient) for factors in self.factors)]).sum(0)

    def added(self, gradient: Tensor, weights: Tensor) -> Tensor:
        """``[parameters]``, a gradient and these times their weights ``[groups]``."""
        result = gradient.clone()
        for columns, values in self.formed.items():
            result[slice(*columns)].addmv_(values.T, weights)
        for factors in self.factors:
            factors.add_mixture(result, weights)
        return result


class GroupedGradients:
    """Gradients of one network, in evaluation mode, by the loss of groups of rows.

    Where a layer convolves, or is not run although its parameters may be used, every group takes a pass of its own.

    Args:
        network: float ``[batch, ...]`` -> logits ``[batch, outputs]``; rows must not depend on one another, nor may a
            layer that is run lend its parameters to others' forward passes.
        example: float ``[1, ...]``, run once to see which layers there are and what they hold.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self._network = network
        self._parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._names = {id(p): name for name, p in self._parameters.items()}
        bounds = accumulate((p.numel() for p in self._parameters.values()), initial=0)
        self._columns = dict(zip(self._parameters, pairwise(bounds), strict=True))
        with frozen_statistics(network), torch.no_grad(), recorded_calls(network, self._names) as calls:
            network(example)
        uses = [name for call in calls for name in call.names.values()]
        convolves = any(isinstance(call.layer, nn.Conv2d) for call in calls)
        self._together = set(uses) == set(self._parameters) and not convolves
        self._linear = [
            (call.layer, set(call.names.values()))
            for call in calls
            if call.is_linear and all(uses.count(name) == 1 for name in call.names.values())
        ]
        self._numbers_per_row = sum(value.numel() for call in calls for value in (*call.inputs, call.output))

    def __call__(self, x: Tensor, losses: RowLosses, counts: Sequence[int]) -> GroupGradients:
        """The gradients of all groups, trainable parameters in the network's order.

        Args:
            x: float ``[rows, ...]``, one group after another.
            counts: rows of each group, at least one.
        """
        blocks, starts = list(self._blocks(counts)), list(accumulate(counts, initial=0))
        factored = self._factored(counts) if self._together and len(blocks) == 1 else set()
        formed = {
            name: x.new_zeros(len(counts), *p.shape) for name, p in self._parameters.items() if name not in factored
        }
        factors: list[Factors] = []
        with frozen_statistics(self._network), torch.enable_grad():
            for groups in blocks:
                rows = slice(starts[groups.start], starts[groups.stop])
                own = {name: values[groups] for name, values in formed.items()}
                add = self._add if self._together else self._add_whole
                factors += add(own, counts[groups], x[rows], partial(losses, rows))
        return GroupGradients({self._columns[name]: values.flatten(1) for name, values in formed.items()}, factors)

    def _blocks(self, counts: Sequence[int]) -> Iterator[slice]:
        """Which groups share a pass."""
        room = GROUPED_NUMBERS // self._numbers_per_row if self._together else 0
        start = rows = 0
        for group, count in enumerate(counts):
            if group > start and rows + count > room:
                yield slice(start, group)
                start, rows = group, 0
            rows += count
        yield slice(start, len(counts))

    def _factored(self, counts: Sequence[int]) -> set[str]:
        """The parameters of linear layers whose gradients cost more, written and read, than products of factors."""
        rows, found = len(counts) * max(counts), set()
        for layer, names in self._linear:
            outputs, inputs = layer.get_parameter("weight").shape
            by_factors = rows * rows * (outputs + inputs) + rows * outputs * inputs
            if by_factors < PASSES_OVER_NUMBERS * len(counts) * outputs * inputs:
                found.update(names)
        return found

    def _add_whole(
        self, own: dict[str, Tensor], _: Sequence[int], x: Tensor, losses: Callable[[Tensor], Tensor]
    ) -> list[Factors]:
        """The pass of a single group."""
        loss = losses(self._network(x)).mean()
        found = torch.autograd.grad(loss, list(self._parameters.values()), allow_unused=True, materialize_grads=True)
        for values, gradient in zip(own.values(), found, strict=True):
            values += gradient
        return []

    def _add(
        self, own: dict[str, Tensor], counts: Sequence[int], x: Tensor, losses: Callable[[Tensor], Tensor]
    ) -> list[Factors]:
        """The pass of several groups; returns what is left in factors."""
        with recorded_calls(self._network, self._names) as calls:
            logits = self._network(x)
        loss = losses(logits) @ _shares(counts).to(logits)
        deltas = torch.autograd.grad(loss, [call.output for call in calls], materialize_grads=True)
        factors = []
        for call, delta in zip(calls, deltas, strict=True):
            if not set(call.names.values()) <= set(own):
                factors.append(self._factors(call, delta, counts))
            elif call.is_linear:
                _add_linear(own, call, delta, counts)
            else:
                _add_sums(own, call, delta, counts)
        return factors

    def _factors(self, call: LayerCall, delta: Tensor, counts: Sequence[int]) -> Factors:
        columns = {local: slice(*self._columns[name]) for local, name in call.names.items()}
        errors, inputs = _stacked(delta, counts), _stacked(call.inputs[0], counts)
        return Factors(errors, inputs, columns.get("weight"), columns.get("bias"))


def _shares(counts: Sequence[int]) -> Tensor:
    """What each row weighs, ``[rows]``: one over the rows of its group."""
    sizes = torch.tensor(counts)
    return (1 / sizes.double()).repeat_interleave(sizes)


def _add_linear(own: dict[str, Tensor], call: LayerCall, delta: Tensor, counts: Sequence[int]) -> None:
    deltas = _stacked(delta, counts)
    for local, name in call.names.items():
        if local == "weight":
            own[name].baddbmm_(deltas.mT, _stacked(call.inputs[0], counts))
        else:
            own[name] += deltas.sum(1)


def _add_sums(own: dict[str, Tensor], call: LayerCall, delta: Tensor, counts: Sequence[int]) -> None:
    for group, (start, stop) in enumerate(pairwise(accumulate(counts, initial=0))):
        rows = slice(start, stop)
        for name, gradient in call.summed(delta[rows], rows).items():
            own[name][group] += gradient


def _stacked(values: Tensor, counts: Sequence[int]) -> Tensor:
    """``[rows, features]`` -> ``[groups, most rows, features]``, zeros where a group has fewer."""
    if min(counts) == max(counts):
        return values.view(len(counts), -1, values.shape[1])
    return nn.utils.rnn.pad_sequence(values.split(list(counts)), batch_first=True)
