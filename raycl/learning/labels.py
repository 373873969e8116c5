"""Cross-entropy to labels, plain or smoothed, over the units that compete."""

from __future__ import annotations

from torch import Tensor, nn


def cross_entropy(
    logits: Tensor, y: Tensor, smoothing: float, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """The loss of labels, ``[]``, or ``[batch]`` without reduction.

    Smoothed labels are 1 - smoothing at the label and smoothing / k at each of the k units that compete (Szegedy et
    al. 2016, "Rethinking the Inception architecture", section 7).

    Args:
        logits: ``[batch, units]``; a unit at minus infinity does not compete.
        y: int64 ``[batch]``.
        smoothing: 0 is plain.
        mask: bool ``[batch, units]``, which units compete in each row; None: as logits say.
        reduction: as torch's.
    """
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    if not smoothing:
        return nn.functional.cross_entropy(logits, y, reduction=reduction)
    competing, log_p = logits > float("-inf"), logits.log_softmax(1)
    even = log_p.masked_fill(~competing, 0.0).sum(1) / competing.sum(1)
    losses = -(1 - smoothing) * log_p.gather(1, y[:, None]).squeeze(1) - smoothing * even
    return losses.mean() if reduction == "mean" else losses
