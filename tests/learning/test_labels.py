"""Cross-entropy to labels: plain as torch's, smoothed over the units that compete."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from raycl.learning.labels import cross_entropy

LOGITS = torch.tensor([[1.0, 0.5, -1.0, 2.0], [0.0, 3.0, 1.0, -2.0], [2.0, 2.0, 0.0, 1.0]])
LABELS = torch.tensor([0, 1, 3])
SOME = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1]]).bool()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_over_all_units_it_is_torchs(smoothing: float, reduction: str) -> None:
    expected = nn.functional.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing, reduction=reduction)
    everything = torch.ones_like(LOGITS, dtype=torch.bool)
    for mask in (None, everything):
        assert torch.allclose(cross_entropy(LOGITS, LABELS, smoothing, mask, reduction), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_units_that_do_not_compete_take_no_part(smoothing: float) -> None:
    """Each row alone, of its own units only, by torch."""
    losses = cross_entropy(LOGITS, LABELS, smoothing, SOME, "none")
    masked = LOGITS.masked_fill(~SOME, float("-inf"))
    assert torch.equal(cross_entropy(masked, LABELS, smoothing, reduction="none"), losses)
    for row, (logits, label, mask) in enumerate(zip(LOGITS, LABELS, SOME, strict=True)):
        place = int(mask[: int(label)].sum())
        alone = nn.functional.cross_entropy(logits[mask][None], torch.tensor([place]), label_smoothing=smoothing)
        assert losses[row] == pytest.approx(float(alone), abs=1e-6)
    assert cross_entropy(LOGITS, LABELS, smoothing, SOME) == pytest.approx(float(losses.mean()), abs=1e-6)


def test_two_equal_units_by_hand() -> None:
    loss = cross_entropy(torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([0]), 0.2, torch.tensor([[True, True, False]]))
    assert float(loss) == pytest.approx(math.log(2))


def test_gradients_are_finite_and_zero_where_nothing_competes() -> None:
    logits = LOGITS.clone().requires_grad_()
    cross_entropy(logits, LABELS, 0.1, SOME).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[~SOME].any()
