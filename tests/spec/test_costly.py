"""Values that take long beside the others are warned of, where they do."""

from __future__ import annotations

import pytest

from raycl.catalog import catalog
from raycl.spec.sweep import SweepSpec

TEXT = """\
name: costly
stream: {name: permuted, dataset: digits, tasks: 5, scenario: class}
model: {name: mlp, hidden: [20]}
training: {epochs: 2}
strategies: {ewc: {penalty: 10}}
final: {seeds: [10]}
"""


def told(old: str = "", new: str = "") -> list[str]:
    """Warnings of an exact Fisher information, after one edit."""
    assert old in TEXT
    warnings = SweepSpec.parse(TEXT.replace(old, new) if old else TEXT, catalog(), "sweep.yaml").warnings
    return [line for line in warnings if "'sampled'" in line]


def test_an_exact_fisher_over_fifty_units_is_warned_of() -> None:
    (line,) = told()
    assert "strategies.ewc.fisher: takes time for each active unit" in line


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tasks: 5", "tasks: 4"),
        ("scenario: class", "scenario: domain"),
        ("penalty: 10", "penalty: 10, fisher: sampled"),
        ("penalty: 10", "penalty: 0"),
        ("epochs: 2", "epochs: 2, active_logits: current"),
    ],
)
def test_where_it_does_not_take_long_nothing_is_said(old: str, new: str) -> None:
    assert not told(old, new)
