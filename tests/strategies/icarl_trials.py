"""Trials of iCaRL on digits that its tests share."""

from __future__ import annotations

from typing import Any

import pytest
from support import trainer, trial

from raycl.strategies import icarl
from raycl.strategies.icarl import ICaRL
from raycl.trial.trainer import Trainer

CAPACITY = 47
"""Divides by none of the numbers of classes."""
BATCH_NORM = {"model": {"hidden": [32, 16], "norm": "batch"}}


def made(**blocks: Any) -> Trainer:
    memory = {"capacity": CAPACITY, **blocks.pop("memory", {})}
    return trainer(trial("icarl", blocks.pop("scenario", "class"), memory=memory, **blocks))


def method(running: Trainer) -> ICaRL:
    assert isinstance(running.strategy, ICaRL)
    return running.strategy


def mutated(wrong: type[ICaRL], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icarl, "ICaRL", wrong)
