"""What no penalty on old weights can do, and what every method that has one stands by."""

from __future__ import annotations

from functools import cache

import pytest
from support import matrix, trial

from raycl.catalog import catalog
from raycl.strategies.anchored import Anchored

METHODS = [name for name in catalog().strategies.names() if issubclass(catalog().strategies.get(name), Anchored)]


@cache
def average(name: str) -> float:
    return matrix(trial(name, "class", stream={"tasks": 5})).average_accuracy()


@pytest.mark.parametrize("name", METHODS)
def test_it_is_no_help_where_classes_of_different_tasks_are_told_apart(name: str) -> None:
    """With no old image in the batch, nothing pulls the output units of old and new classes apart."""
    assert average(name) <= average("naive") + 0.02


def test_the_methods_are_found() -> None:
    assert {"ewc", "si", "mas", "l2"} <= set(METHODS)
