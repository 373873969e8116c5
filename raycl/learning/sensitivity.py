"""How much each parameter moves the outputs of a network: the importance of Memory Aware Synapses.

Aljundi, Babiloni, Elhoseiny, Rohrbach and Tuytelaars, "Memory Aware Synapses: learning what (not) to forget", ECCV 2018
(arXiv 1711.09601), equation 3 with the squared L2 norm of section 4.1: Omega_k = mean over x of
|d ||f(x)||^2 / d theta_k|, where f are logits. No label enters. The mean is taken of absolute values of single
examples' gradients, never the absolute value of a mean, in which examples cancel (:mod:`raycl.learning.per_example`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn

from raycl.learning.per_example import mean_power_of_gradients
from raycl.streams.task import Batch


def output_sensitivity(
    network: nn.Module, batches: Iterable[Batch], active: Callable[[Batch], Tensor]
) -> dict[str, Tensor]:
    """The mean over all rows of the absolute gradients of the squared norm of the logits, in evaluation mode.

    Args:
        network: float ``[batch, ...]`` -> logits ``[batch, outputs]``; rows must not depend on one another.
        batches: their size bounds the memory, and moves nothing else.
        active: bool ``[batch, outputs]``, the units that answer for each row.

    Returns:
        One tensor per trainable parameter, by name, in the parameter's shape.

    Raises:
        MethodError: there are no rows, or a trainable parameter is used outside the layer that owns it.
    """

    def gradients(logits: Tensor, batch: Batch) -> Iterator[Tensor]:
        yield 2 * logits.masked_fill(~active(batch), 0.0)

    return mean_power_of_gradients(network, batches, gradients, "absolute")
