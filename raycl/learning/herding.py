"""Herding: a ranking of examples whose mean follows the mean of all of them, wherever the ranking is cut off.

Welling, "Herding dynamical weights to learn", ICML 2009, as used by Rebuffi, Kolesnikov, Sperl and Lampert, "iCaRL:
incremental classifier and representation learning", CVPR 2017 (arXiv 1611.07725), algorithm 4:

    p_k = argmin over x of || mu - (phi(x) + sum over j < k of phi(p_j)) / k ||

No example is chosen twice, which the algorithm leaves open. The authors' loop may come upon one that it has: it takes
its features away from what is missing once more, without ranking it again, and goes on, so that later ranks differ.
As in their code neither mu nor the running mean is scaled back to unit length, between which the distance would not
fall to zero.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unit_length(features: Tensor) -> Tensor:
    """float ``[n, d]`` -> the same with rows of Euclidean length 1; zeros stay zeros."""
    return torch.nn.functional.normalize(features, dim=1)


@torch.no_grad()
def herding(features: Tensor, count: int) -> Tensor:
    """The best rows, best first.

    Times k, the squared distance is |k mu - sum_j phi(p_j) - phi(x)|^2, so that what is largest is the inner product of
    phi(x) with what is missing, less half of phi(x)'s own square; one product of matrix and vector for each row chosen.

    Args:
        features: phi, float ``[n, d]``, of all examples of a class.
        count: rows to choose.

    Returns:
        int64 ``[min(count, n)]``, distinct.
    """
    mean = features.mean(0)
    missing = mean.clone()
    penalty = features.square().sum(1).div_(2)
    chosen = torch.empty(min(count, len(features)), dtype=torch.int64, device=features.device)
    for place in range(len(chosen)):
        best = torch.mv(features, missing).sub_(penalty).argmax(0, keepdim=True)
        chosen[place : place + 1] = best
        missing.add_(mean).sub_(features.index_select(0, best)[0])
        penalty.index_fill_(0, best, float("inf"))
    return chosen
