"""Multi-head fine-tuning: old heads stay to the last bit under every optimiser, and only the task's own head learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import finish, trainer, trial
from torch import Tensor

from raycl.errors import SpecError
from raycl.strategies.base import Losses, Position, Strategy
from raycl.strategies.multi_head import MultiHead
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "momentum": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-2},
    "adamw": {"optimizer": "adamw", "weight_decay": 1e-1},
    "kept": {"optimizer": "adam", "reset_optimizer": False, "gradient_clip": 0.5},
}


def head(trainer: Trainer) -> Tensor:
    """Weights and bias ``[outputs, features + 1]`` of all heads."""
    layer = trainer.strategy.network.head
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().clone()


def check_old_heads(learning: Trainer) -> None:
    while not learning.done:
        task, before = learning.next_task, head(learning)
        learning.run_task()
        units = learning.scenario.units(task)
        assert torch.equal(head(learning)[: units.start], before), f"old heads in task {task}"


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_old_heads_stay_to_the_last_bit(optimizer: str) -> None:
    check_old_heads(trainer(trial("multi_head", "task", training=OPTIMIZERS[optimizer])))


class LeavesGradientsOfZero(MultiHead):
    """A mutant: relies on gradients of zero to keep old heads."""

    def learning_units(self, task: int) -> None:
        return None


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_gradient_of_zero_is_not_enough(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.multi_head.MultiHead", LeavesGradientsOfZero)
    with pytest.raises(AssertionError, match="old heads in task 1"):
        check_old_heads(trainer(trial("multi_head", "task", training=OPTIMIZERS[optimizer])))


def check_only_the_own_head_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old rows get no gradient, the task's own do, and so does the trunk."""
    updates = 0

    class Watched(MultiHead):
        def edit_gradients(self, batch: Batch, at: Position) -> None:
            nonlocal updates
            updates += 1
            gradient, units = self.network.head.weight.grad, self.context.scenario.units(at.task)
            assert gradient is not None
            assert not gradient[: units.start].any(), "old heads"
            assert gradient[units.start :].any()
            assert self.network.backbone[1].weight.grad.any()

    monkeypatch.setattr("raycl.strategies.multi_head.MultiHead", Watched)
    rows = finish(trainer(trial("multi_head", "task")))
    assert updates == sum(row.cost.updates for row in rows)


def test_only_the_own_head_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    check_only_the_own_head_learns(monkeypatch)


def test_a_softmax_over_all_heads_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: cross-entropy over the concatenated logits, which is class-incremental training."""

    def concatenated(self: Strategy, batch: Batch) -> Losses:
        return {"task": torch.nn.functional.cross_entropy(self.network(batch.x), batch.y)}

    monkeypatch.setattr(Strategy, "loss", concatenated)
    with pytest.raises(AssertionError, match="old heads"):
        check_only_the_own_head_learns(monkeypatch)


def test_the_trunk_still_drifts() -> None:
    learning = trainer(trial("multi_head", "task"))
    learning.run_task()
    before = learning.strategy.network.backbone[1].weight.detach().clone()
    learning.run_task()
    assert not torch.equal(learning.strategy.network.backbone[1].weight, before)


@pytest.mark.parametrize(
    ("blocks", "rule"),
    [
        ({"model": {"head": "single"}}, r"model\.head: .*set per_task \(got 'single'\)"),
        ({"training": {"active_logits": "seen"}}, r"training\.active_logits: .*\(got 'seen'\)"),
    ],
)
def test_it_needs_a_head_per_task_and_a_softmax_over_one(blocks: dict[str, Any], rule: str) -> None:
    with pytest.raises(SpecError, match=rule):
        trainer(trial("multi_head", "task", **blocks))
