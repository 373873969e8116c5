"""Rows through batch normalisation, in passes of their own or all together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raycl.learning.passes import ForwardPasses, logits_of_parts

SIZES = (5, 3, 4)


def rows() -> Tensor:
    """Parts of very different means, ``[12, 2]``."""
    noise = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    return noise + torch.tensor([0.0, 10.0, -30.0]).repeat_interleave(torch.tensor(SIZES))[:, None]


def normalised(x: Tensor) -> Tensor:
    """By the mean and the deviation of these rows, as batch normalisation does."""
    return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()


def check(forward: ForwardPasses) -> None:
    """Each part is scaled by its own statistics, and the running ones move once a part."""
    norm = nn.BatchNorm1d(2, affine=False, momentum=0.5)
    found = logits_of_parts(norm, rows(), SIZES, forward)
    parts = rows().split(SIZES)
    assert torch.allclose(found, torch.cat([normalised(part) for part in parts]), atol=1e-4)
    running = torch.zeros(2)
    for part in parts:
        running = 0.5 * running + 0.5 * part.mean(0)
    assert torch.allclose(norm.running_mean, running, atol=1e-4)


def test_separate_passes_have_statistics_of_their_own() -> None:
    check("separate")


def test_the_check_finds_a_joint_pass() -> None:
    with pytest.raises(AssertionError):
        check("joint")


def test_a_joint_pass_has_the_statistics_of_all_rows() -> None:
    found = logits_of_parts(nn.BatchNorm1d(2, affine=False), rows(), SIZES, "joint")
    assert torch.allclose(found, normalised(rows()), atol=1e-4)


def test_a_single_row_has_no_statistics_and_goes_with_the_others() -> None:
    found = logits_of_parts(nn.BatchNorm1d(2, affine=False), rows(), (11, 1), "separate")
    assert torch.allclose(found, normalised(rows()), atol=1e-4)
