"""Learning from a teacher: copies of a network that stay as they are, and losses between outputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from raycl.models.network import Network


def frozen_copy(network: Network) -> Network:
    """A copy in evaluation mode that no optimiser and no running statistic moves; it shares no storage."""
    return copy.deepcopy(network).eval().requires_grad_(False)


class Softmaxes:
    """Which output units each of several softmaxes runs over.

    Attributes:
        place: int64 ``[softmaxes, largest size]``, their units; -1 where a softmax has fewer.
        absent: bool, which these are; None where all softmaxes are of one size.

    Args:
        groups: their units, one softmax each.
    """

    def __init__(self, groups: Sequence[range], device: torch.device) -> None:
        self.place = unit_groups(groups, device)
        equal = len({len(group) for group in groups}) == 1
        self.absent = None if equal else self.place < 0
        end_to_end = equal and all(left.stop == right.start for left, right in pairwise(groups))
        self._block = slice(groups[0].start, groups[-1].stop) if end_to_end else None

    def __len__(self) -> int:
        return len(self.place)

    def of(self, logits: Tensor) -> Tensor:
        """``[batch, outputs]`` -> ``[batch, softmaxes, largest size]``; numbers in places that are absent mean nothing.

        Equal softmaxes that lie end to end are a view: to collect units one by one costs an update of a small network.
        """
        if self._block is not None:
            return logits[:, self._block].reshape(len(logits), *self.place.shape)
        return logits[:, self.place.clamp(min=0)]


def unit_groups(groups: Sequence[range], device: torch.device) -> Tensor:
    """Output units by softmax, int64 ``[groups, largest size]``; missing places are -1."""
    width = max(len(group) for group in groups)
    rows = [[*group, *[-1] * (width - len(group))] for group in groups]
    return torch.tensor(rows, device=device)


def distillation(
    student: Tensor, teacher: Tensor, groups: Softmaxes, temperature: float, squared: bool, others: Tensor | None = None
) -> Tensor:
    """KL(teacher || student) of softmaxes at a temperature T, summed over groups, mean over rows, ``[]``.

    Li and Hoiem, ECCV 2016 (arXiv 1606.09282), equations 2 and 3, as KL: it differs from their cross-entropy by the
    teacher's entropy, has the same gradient, and is 0 where student and teacher agree.

    Args:
        student: logits ``[batch, outputs]``.
        teacher: logits ``[batch, outputs]`` without gradient; only units in ``groups`` are read.
        squared: multiply by T^2 (Hinton et al. 2015), so that the gradient's size does not depend on T.
        others: int64 ``[n]``, units that join the student's softmax (of every group) with a target of zero.
    """
    absent = groups.absent
    old, target = groups.of(student) / temperature, groups.of(teacher) / temperature
    if absent is not None:
        old, target = (logits.masked_fill(absent, float("-inf")) for logits in (old, target))
    target = target.log_softmax(-1)
    norm = old.logsumexp(-1, keepdim=True)
    if others is not None:
        rest = (student[:, others] / temperature).logsumexp(-1)[:, None, None]
        norm = torch.logaddexp(norm, rest)
    gap = target - (old - norm)
    if absent is not None:
        gap = gap.masked_fill(absent, 0.0)
    value = (target.exp() * gap).sum((1, 2)).mean()
    return value * temperature**2 if squared else value
