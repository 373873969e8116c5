"""A cluster of one machine that has died ends the run, where Tune would wait for ever."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from raycl.distributed.cluster import Pulse
from raycl.errors import InfrastructureError


def nodes(monkeypatch: pytest.MonkeyPatch, *alive: bool) -> list[None]:
    """Pretend such nodes; each look at them is counted."""
    looks: list[None] = []

    def look() -> list[dict[str, Any]]:
        looks.append(None)
        return [{"Alive": value} for value in alive]

    monkeypatch.setattr(ray, "nodes", look)
    return looks


def test_a_dead_machine_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes(monkeypatch, False)
    with pytest.raises(InfrastructureError, match=r"has died.*the same command goes on"):
        Pulse().check()


def test_a_living_one_is_looked_at_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = nodes(monkeypatch, False, True)
    rare, often = Pulse(every=60), Pulse(every=0)
    for _ in range(3):
        rare.check()
    assert len(looks) == 1
    for _ in range(3):
        often.check()
    assert len(looks) == 4
