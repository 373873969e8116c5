"""Replayed rows as negatives: they tell new classes what they are not, and teach old classes nothing.

Graffieti, Maltoni, Pellegrini and Lomonaco, "Generative negative replay for continual learning", Neural Networks 2023
(arXiv 2204.05842). Of a replayed row with features h, an old class y and probabilities p, gradient p_c h reaches the
rows c of the classes that are being learned, and nothing else: neither the rows of other classes, y among them, nor
what lies below the head. Since the gradient at every class but y is p_c, it does not matter which old class it is.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.func import functional_call

from raycl.errors import MethodError
from raycl.learning.ownership import FrozenEntries
from raycl.models.network import GrowingHead
from raycl.streams.scenario import Scenario


def with_negatives(head: GrowingHead, features: Tensor, negative: Tensor, learning: Tensor, fixed: bool) -> Tensor:
    """Logits ``[batch, outputs]`` of features ``[batch, features]``.

    Args:
        negative: bool ``[batch]``, rows whose gradient reaches the rows of ``learning`` in the head alone.
        learning: bool ``[outputs]``, output units of the classes that are being learned.
        fixed: other rows of the head learn from nothing; otherwise from rows that are not negative.
    """
    weight = torch.where(learning[:, None], head.weight, head.weight.detach())
    if fixed:
        features = torch.where(negative[:, None], features.detach(), features)
        found: Tensor = functional_call(head, {"weight": weight}, (features,))  # a call, so that its rows are counted
        return found
    logits: Tensor = head(features)
    return torch.where(negative[:, None], head.logits(features.detach(), weight, head.bias), logits)


def fixed_rows(head: GrowingHead, learning: Tensor) -> FrozenEntries:
    """Hold the rows that do not learn where they are: decay and moments would move them without any gradient.

    Args:
        learning: bool ``[outputs]``.
    """
    return FrozenEntries({"weight": head.weight}, {"weight": ~learning[:, None].expand_as(head.weight)})


def balanced(losses: Tensor, replayed: Tensor, share: float) -> Tensor:
    """The mean loss of new rows and that of replayed ones, weighted 1 - share and share, ``[]``.

    Rows of all classes weigh alike where ``share`` is that of the old classes among all. With fewer of them new classes
    are taken to be likely, and win against old ones, which cannot answer.

    Args:
        losses, replayed: ``[batch]``; without replayed rows the mean is taken.
    """
    count = replayed.sum()
    share_of_replayed = torch.where(count > 0, share / count.clamp(min=1), 0.0)
    share_of_new = torch.where(count > 0, 1 - share, 1.0) / (len(losses) - count).clamp(min=1)
    return (torch.where(replayed, share_of_replayed, share_of_new) * losses).sum()


def learned_units(outputs: int, units: Iterable[int], device: torch.device) -> Tensor:
    """Which of so many output units are among ``units``, bool ``[outputs]``."""
    learning = torch.zeros(outputs, dtype=torch.bool)
    learning[list(units)] = True
    return learning.to(device)


def require_rivals(scenario: Scenario, method: str) -> None:
    """Negatives need output units of other tasks that compete with those being learned.

    Raises:
        MethodError: there are none in this scenario.
    """
    if scenario.shared or scenario.policy == "own":
        raise MethodError(
            f"{method}: negatives need classes of other tasks in the softmax of the row (got scenario {scenario.name}, "
            f"active_logits {scenario.policy}); use scenario class with model.head: single"
        )
