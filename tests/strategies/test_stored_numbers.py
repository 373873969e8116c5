"""Numbers of a method move only with its revision: a small trial of each is kept in ``tests/stored/numbers.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import stored_numbers

from raycl.catalog import catalog
from raycl.strategies.base import Losses
from raycl.strategies.naive import Naive
from raycl.streams.task import Batch

KEPT: dict[str, dict[str, Any]] = json.loads(stored_numbers.STORED.read_text())
ROUNDING = 1e-3
"""Relative; what float32 in another order makes of six small updates."""
FEW = 3
"""Images on an edge, of the 30 or so of a cell."""


def moved(kept: dict[str, Any], now: dict[str, Any]) -> str:
    """What is not as it was; empty where all is. Bits are compared only where the machine is of the same kind."""
    if kept["revisions"] != now["revisions"]:
        return "the list is of another revision; write it again: python tests/stored_numbers.py"
    if kept["total"] != now["total"]:
        return "totals"
    if kept["machine"] == now["machine"]:
        return next((name for name in ("correct", "sum", "square") if kept[name] != now[name]), "")
    pairs = zip(chain(*kept["correct"]), chain(*now["correct"]), strict=True)
    if any(abs(a - b) > FEW for a, b in pairs):
        return "correct"
    return next((name for name in ("sum", "square") if now[name] != pytest.approx(kept[name], rel=ROUNDING)), "")


@pytest.mark.parametrize("strategy", catalog().strategies.names())
def test_numbers_are_those_of_the_revision(strategy: str) -> None:
    assert strategy in KEPT, "a new method: write the list again, python tests/stored_numbers.py"
    what = moved(KEPT[strategy], stored_numbers.numbers(strategy))
    assert not what, f"{what} moved; raise the revision of {strategy}, and write the list again"


def test_mutant_a_method_that_changes_without_a_revision_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(strength: float) -> Callable[[Naive, Batch], Losses]:
        return lambda self, batch: {**loss(self, batch), "small": strength * self.network(batch.x).square().mean()}

    loss = Naive.loss
    here = stored_numbers.numbers("naive")  # on another machine bits are not compared
    assert not moved(here, stored_numbers.numbers("naive"))
    monkeypatch.setattr(Naive, "loss", other(1e-4))
    assert moved(here, stored_numbers.numbers("naive"))
    monkeypatch.setattr(Naive, "loss", other(1.0))
    assert moved({**KEPT["naive"], "machine": ["another", "machine"]}, stored_numbers.numbers("naive"))


def test_mutant_a_revision_without_new_numbers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Naive, "revision", 99)
    assert "another revision" in moved(KEPT["naive"], stored_numbers.numbers("naive"))
