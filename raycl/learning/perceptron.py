"""The squared errors of the expected label in a perceptron with ReLUs, of all classes at once.

With p = softmax(f), logits f and V the head's weights, the gradient of log p_u by the head's inputs is V_u - p V. Times
sqrt(p_u) it is one of as many errors as there are classes; a layer further down has them times the weights between,
where its ReLU is active. Their squares, summed over u, are all that the Fisher information of a linear layer takes
(:mod:`raycl.learning.per_example`).

The products with the weights are the cost. Few classes take them one after another, all rows at once. Many take them
row by row: then the weights to and from units that are not active in that row, often half of them, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from raycl.learning.layer_gradients import LayerCall
from raycl.models.network import GrowingHead, Network

MANY_CLASSES = 64
"""From so many on, what a row saves in products outweighs the copy of the weights that it takes."""


@dataclass(frozen=True)
class _Errors:
    """What errors are made of.

    Attributes:
        active: bool ``[batch, units]`` of each hidden layer: where its ReLU passes errors on.
        weights: ``[outputs, inputs]`` of every layer but the head.
        head: ``[classes, inputs]``, of the active classes, as are all others.
        means: ``[batch, inputs]``, the head's mean row p V.
        p: ``[batch, classes]``.
    """

    active: Sequence[Tensor]
    weights: Sequence[Tensor]
    head: Tensor
    means: Tensor
    p: Tensor

    def by_class(self) -> list[Tensor]:
        """The squared errors of every hidden layer, ``[batch, units]``, a class at a time."""
        found = [self.means.new_zeros(active.shape) for active in self.active]
        for row, root in zip(self.head, self.p.sqrt().T, strict=True):
            errors = (row - self.means).mul_(root[:, None])
            for layer in reversed(range(len(found))):
                errors.mul_(self.active[layer])
                found[layer].addcmul_(errors, errors)
                if layer:
                    errors = errors @ self.weights[layer]
        return found

    def by_row(self) -> list[Tensor]:
        """The same, a row at a time; units come first, so that those that are active are runs of memory."""
        found = [self.means.new_zeros(active.shape) for active in self.active]
        head = self.head.T.contiguous()
        for row, (mean, p) in enumerate(zip(self.means, self.p, strict=True)):
            units = [active[row].nonzero().flatten() for active in self.active]
            errors = head.index_select(0, units[-1]) - mean[units[-1], None]  # squares are weighed by p instead
            for layer in reversed(range(len(found))):
                found[layer][row].index_copy_(0, units[layer], errors.square().mv(p))
                if layer:
                    weights = self.weights[layer].index_select(0, units[layer]).index_select(1, units[layer - 1])
                    errors = (errors.T @ weights).T
        return found


def is_perceptron(network: nn.Module) -> bool:
    """Whether a network is flattened pixels, linear layers each with its ReLU, and a linear head; and each learns."""
    if type(network) is not Network or type(network.backbone) is not nn.Sequential:
        return False
    kinds = [type(layer) for layer in network.backbone]
    if kinds != [nn.Flatten, *[nn.Linear, nn.ReLU] * (len(kinds) // 2)] or type(network.head) is not GrowingHead:
        return False
    own = [list(layer.parameters()) for layer in (*network.backbone[1::2], network.head)]
    shared = sum(map(len, own)) > len(list(network.parameters()))
    return not shared and all(any(p.requires_grad for p in parameters) for parameters in own)


def squared_errors(calls: Sequence[LayerCall], p: Tensor) -> list[Tensor]:
    """Of every layer, sum over u of p_u (d log p_u / d output)^2, ``[batch, outputs]``.

    Args:
        calls: the layers of a perceptron, in their order; of their inputs, all but the first's are rectified.
        p: ``[batch, classes]``, probabilities; 0 where a class is not active.
    """
    classes = p.any(0).nonzero().flatten()
    weights: list[Tensor] = [call.layer.get_parameter("weight") for call in calls]
    head, p_active = weights.pop()[classes], p[:, classes]
    errors = _Errors([call.inputs[0] > 0 for call in calls[1:]], weights, head, p_active @ head, p_active)
    by_row = len(weights) > 1 and len(classes) >= MANY_CLASSES
    hidden = errors.by_row() if by_row else errors.by_class()
    return [*hidden, p * _others(p)]


def _others(p: Tensor) -> Tensor:
    """1 - p ``[batch, classes]``; where p is nearly 1, as the sum of the others, which is not lost to rounding."""
    top = p.argmax(1, keepdim=True)
    return (1 - p).scatter(1, top, p.scatter(1, top, 0.0).sum(1, keepdim=True))
