"""Gradients of groups, from and to one row for each of them."""

from __future__ import annotations

import torch
from torch import Tensor

from raycl.learning.grouped_gradients import GroupGradients


def from_rows(rows: Tensor) -> GroupGradients:
    """``[groups, parameters]``, all of them formed."""
    return GroupGradients({(0, rows.shape[1]): rows}, ())


def to_rows(gradients: GroupGradients, parameters: int) -> Tensor:
    """``[groups, parameters]``, each row as a mixture of one gradient."""
    gram = gradients.gram()
    return torch.stack(
        [gradients.added(gram.new_zeros(parameters), weights) for weights in torch.eye(len(gram)).to(gram)]
    )
