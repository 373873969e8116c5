"""Methods that promise to keep old answers to the last bit do so with every optimiser; naive fine-tuning does not."""

from __future__ import annotations

from typing import Any

import pytest
from old_answers import OPTIMIZERS, check_old_answers
from support import trainer, trial

from raycl.catalog import catalog

EXACT: dict[str, dict[str, Any]] = {
    "ensemble": {},
    "packnet": {},
    "piggyback": {},
    "supsup": {},
    "progressive": {},
    "hat": {"hard": True},
}
"""Methods that forget nothing where the task id is given, and the options under which they do so."""

PROMISED = [name for name in EXACT if name in catalog().strategies]


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("name", PROMISED)
def test_old_logits_stay_to_the_last_bit(name: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    training = OPTIMIZERS[optimizer]
    check_old_answers(trainer(trial(name, "task", options=EXACT[name], training=training)), monkeypatch)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("name", ["naive", "multi_head"])
def test_the_check_sees_a_trunk_that_moves(name: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="after task"):
        check_old_answers(trainer(trial(name, "task", training=OPTIMIZERS[optimizer])), monkeypatch)
