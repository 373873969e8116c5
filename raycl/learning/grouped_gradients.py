"""The gradient of the mean loss of each of several groups of rows, from one pass forward and one pass back.

The gradient by a layer's weights is a sum over rows, of products of what the layer saw and of the gradients by its
output. So one pass over all rows serves every group: only these sums are taken apart. For linear layers they are one
batched matrix product, in which smaller groups are filled up with zeros that add nothing; any other layer sums its
rows group by group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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


class GroupedGradients:
    """Gradients of one network, in evaluation mode, by the loss of groups of rows.

    Where some layer is not run, although its parameters may be used, every group takes a pass of its own.

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
        self._separable = {name for call in calls for name in call.names.values()} == set(self._parameters)
        self._numbers_per_row = sum(value.numel() for call in calls for value in (*call.inputs, call.output))

    def __call__(self, x: Tensor, losses: RowLosses, counts: Sequence[int]) -> Tensor:
        """The gradients ``[groups, parameters]``, trainable parameters in the network's order.

        Args:
            x: float ``[rows, ...]``, one group after another.
            counts: rows of each group, at least one.
        """
        gradients = x.new_zeros(len(counts), sum(p.numel() for p in self._parameters.values()))
        starts = list(accumulate(counts, initial=0))
        add = self._add if self._separable else self._add_whole
        with frozen_statistics(self._network), torch.enable_grad():
            for groups in self._blocks(counts):
                rows = slice(starts[groups.start], starts[groups.stop])
                add(gradients[groups], counts[groups], x[rows], partial(losses, rows))
        return gradients

    def _blocks(self, counts: Sequence[int]) -> Iterator[slice]:
        """Which groups share a pass."""
        room = GROUPED_NUMBERS // self._numbers_per_row if self._separable else 0
        start = rows = 0
        for group, count in enumerate(counts):
            if group > start and rows + count > room:
                yield slice(start, group)
                start, rows = group, 0
            rows += count
        yield slice(start, len(counts))

    def _add_whole(self, gradients: Tensor, _: Sequence[int], x: Tensor, losses: Callable[[Tensor], Tensor]) -> None:
        """The pass of a single group."""
        parameters = list(self._parameters.values())
        loss = losses(self._network(x)).mean()
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        gradients += torch.cat([gradient.flatten() for gradient in found])

    def _add(self, gradients: Tensor, counts: Sequence[int], x: Tensor, losses: Callable[[Tensor], Tensor]) -> None:
        """The pass of several groups."""
        with recorded_calls(self._network, self._names) as calls:
            logits = self._network(x)
        loss = losses(logits) @ _shares(counts).to(logits)
        deltas = torch.autograd.grad(loss, [call.output for call in calls], materialize_grads=True)
        for call, delta in zip(calls, deltas, strict=True):
            own = {name: self._own(gradients, name) for name in call.names.values()}
            if call.is_linear:
                _add_linear(own, call, delta, counts)
            else:
                _add_sums(own, call, delta, counts)

    def _own(self, gradients: Tensor, name: str) -> Tensor:
        """The columns of one parameter, ``[groups, *shape]``."""
        start, stop = self._columns[name]
        return gradients[:, start:stop].view(-1, *self._parameters[name].shape)


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
