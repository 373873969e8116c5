"""A backbone in two parts: together they are the whole, and a wrong name lists the right ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raycl.errors import MethodError
from raycl.models.cut import cut

NESTED = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize("layer", ["0.0", "0.1", "1", "2", None])
def test_both_parts_are_the_backbone(layer: str | None) -> None:
    x = torch.randn(5, 1, 4, 4)
    lower, upper = cut(NESTED, layer)
    assert torch.equal(upper(lower(x)), NESTED(x))
    assert {id(p) for p in [*lower.parameters(), *upper.parameters()]} == {id(p) for p in NESTED.parameters()}


def test_the_named_module_is_the_last_below() -> None:
    lower, upper = cut(NESTED, "0.1")
    assert lower[-1] is NESTED[0][1]
    assert upper[0] is NESTED[1]
    assert not len(cut(NESTED, None)[1])


def test_a_wrong_name_lists_the_right_ones() -> None:
    with pytest.raises(MethodError, match=r"0\.0 Conv2d, 0\.1 ReLU, 1 Flatten, 2 Linear; got '7'"):
        cut(NESTED, "7")


def test_a_backbone_that_is_no_row_of_modules() -> None:
    with pytest.raises(MethodError, match="known: none"):
        cut(nn.Linear(2, 2), None)
