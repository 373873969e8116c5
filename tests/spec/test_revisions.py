"""Which trials a change of what methods share renames: those whose numbers it moved, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from support import trial

from raycl.spec import revisions

DECAY: dict[str, Any] = {"training": {"weight_decay": 1e-2}}
KEPT: dict[str, Any] = {"training": {"reset_optimizer": False}}
ONE: dict[str, Any] = {"training": {"batch_size": 1}}
LATE: dict[str, Any] = {"training": {"iterations": 5}}

TOUCHED = [
    ("idle rows", "naive", "task", DECAY),
    ("idle rows", "naive", "task", KEPT),
    ("idle rows", "naive", "class", {"training": {"weight_decay": 1e-2, "active_logits": "own"}}),
    ("idle rows", "naive", "class", {"training": {"reset_optimizer": False, "active_logits": "current"}}),
    ("idle rows", "naive", "domain", {**DECAY, "model": {"head": "per_task"}}),
    ("idle rows", "feature_extraction", "class", DECAY),
    ("batches of one", "naive", "class", ONE),
    ("batches of one", "gdumb", "class", {"options": {"batch_size": 1}}),
    ("late rows", "replay", "class", LATE),
    ("late rows", "derpp", "class", {**LATE, "memory": {"insert": "first_epoch"}}),
    ("lone rows", "replay", "class", {"memory": {"combine": "mean"}}),
]
UNTOUCHED = [
    ("idle rows", "naive", "task", {}),
    ("idle rows", "naive", "class", DECAY),
    ("idle rows", "naive", "class", KEPT),
    ("idle rows", "naive", "domain", DECAY),
    ("idle rows", "icarl", "task", DECAY),
    ("batches of one", "naive", "class", {"training": {"batch_size": 1, "iterations": 5}}),
    ("late rows", "replay", "class", {**LATE, "memory": {"insert": "every_epoch"}}),
    ("late rows", "replay", "class", {}),
    ("late rows", "derpp", "class", LATE),
    ("lone rows", "replay", "class", {}),
]


@pytest.mark.parametrize(("part", "method", "scenario", "blocks"), TOUCHED)
def test_a_trial_whose_numbers_moved_has_another_name(
    part: str, method: str, scenario: str, blocks: dict[str, Any]
) -> None:
    now = trial(method, scenario, **{name: dict(block) for name, block in blocks.items()})
    assert now.revisions[part] == 2
    assert now.model_copy(update={"revisions": {**now.revisions, part: 3}}).hash != now.hash


@pytest.mark.parametrize(("part", "method", "scenario", "blocks"), UNTOUCHED)
def test_a_trial_whose_numbers_stayed_keeps_its_name(
    part: str, method: str, scenario: str, blocks: dict[str, Any]
) -> None:
    assert part not in trial(method, scenario, **{name: dict(block) for name, block in blocks.items()}).revisions


def test_mutant_decay_alone_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    decays = revisions.Change("idle rows", 2, lambda at: at.training.weight_decay > 0)
    monkeypatch.setattr(revisions, "CHANGES", (decays,))
    assert "idle rows" not in trial("naive", "task", **KEPT).revisions
    assert "idle rows" in trial("naive", "class", **DECAY).revisions
