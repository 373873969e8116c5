"""Learning from a teacher: copies of a network that stay as they are, and losses between outputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from raycl.models.network import Network


def frozen_copy(network: Network) -> Network:
    """A copy in evaluation mode that no optimiser and no running statistic moves; it shares no storage."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def unit_groups(groups: Sequence[range], device: torch.device) -> Tensor:
    """Output units by softmax, int64 ``[groups, largest size]``; missing places are -1."""
    width = max(len(group) for group in groups)
    rows = [[*group, *[-1] * (width - len(group))] for group in groups]
    return torch.tensor(rows, device=device)


def distillation(
    student: Tensor, teacher: Tensor, groups: Tensor, temperature: float, squared: bool, others: Tensor | None = None
) -> Tensor:
    """KL(teacher || student) of softmaxes at a temperature T, summed over groups, mean over rows, ``[]``.

    Li and Hoiem, ECCV 2016 (arXiv 1606.09282), equations 2 and 3, as KL: it differs from their cross-entropy by the
    teacher's entropy, has the same gradient, and is 0 where student and teacher agree.

    Args:
        student: logits ``[batch, outputs]``.
        teacher: logits ``[batch, outputs]`` without gradient; only units in ``groups`` are read.
        groups: of :func:`unit_groups`; one softmax each.
        squared: multiply by T^2 (Hinton et al. 2015), so that the gradient's size does not depend on T.
        others: int64 ``[n]``, units that join the student's softmax (of every group) with a target of zero.
    """
    missing = groups < 0
    place = groups.clamp(min=0)
    old = (student[:, place] / temperature).masked_fill(missing, float("-inf"))
    target = (teacher[:, place] / temperature).masked_fill(missing, float("-inf")).log_softmax(-1)
    norm = old.logsumexp(-1, keepdim=True)
    if others is not None:
        rest = (student[:, others] / temperature).logsumexp(-1)[:, None, None]
        norm = torch.logaddexp(norm, rest)
    gap = (target - (old - norm)).masked_fill(missing, 0.0)
    value = (target.exp() * gap).sum((1, 2)).mean()
    return value * temperature**2 if squared else value
