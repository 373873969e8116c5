"""What iCaRL's old and new units learn: targets and the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from strategies.icarl_trials import BATCH_NORM, CAPACITY, made, method, mutated
from torch import Tensor, nn

from raycl.learning.distillation import frozen_copy
from raycl.models.network import Network
from raycl.strategies import icarl
from raycl.strategies.base import Losses, Position, TaskData, total
from raycl.strategies.icarl import ICaRL
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer


def check_targets(**blocks: Any) -> None:
    """In every update the old units of every row are told what the network said before the task, and that is no label.

    At the first update of a task the old rows of the head are where they should be, but for rounding.
    """
    running = made(**blocks)
    running.run_task()
    strategy = method(running)
    begin, loss = strategy.begin_task, strategy.loss
    before: list[Network] = []
    replayed: list[int] = []

    def begun(task: int, data: TaskData) -> None:
        before.append(frozen_copy(strategy.network))
        begin(task, data)

    def watched(batch: Batch) -> Losses:
        old = strategy._new.start
        expected = (before[0](batch.x)[:, :old] / strategy.config.temperature).sigmoid()
        assert torch.allclose(strategy._targets(batch), expected, atol=1e-5)
        replayed.append(int(batch.replayed.sum()))
        return loss(batch)

    strategy.begin_task, strategy.loss = begun, watched  # type: ignore[method-assign]
    running.run_task()
    assert sum(replayed) >= 2 * CAPACITY - 2, "exemplars are learned among the new rows, once an epoch"


AUGMENTED = {"stream": {"augment": "crop"}}
SOFTENED = {"options": {"temperature": 2.0}}


@pytest.mark.parametrize("blocks", [{}, AUGMENTED, {**BATCH_NORM, **AUGMENTED}, BATCH_NORM, SOFTENED])
def test_targets_are_the_answers_of_the_network_before_the_task(blocks: dict[str, Any]) -> None:
    check_targets(**blocks)


class TargetsOfNow(ICaRL):
    """Targets come from the network as it learns."""

    def _targets(self, batch: Batch) -> Tensor:
        return self._answers(self.network, batch.x).detach()


class LabelsForOldUnits(ICaRL):
    """Old units are told that a new row is none of theirs."""

    def _targets(self, batch: Batch) -> Tensor:
        return torch.zeros_like(super()._targets(batch))


class LabelsOfExemplars(ICaRL):
    """Exemplars, whose labels are known, are told them."""

    def _targets(self, batch: Batch) -> Tensor:
        hard = nn.functional.one_hot(batch.y.clamp(max=self._new.start - 1), self._new.start).float()
        return torch.where(batch.replayed[:, None], hard, super()._targets(batch))


class LogitsAsTargets(ICaRL):
    """Targets are not put through the sigmoid."""

    def _targets(self, batch: Batch) -> Tensor:
        return super()._targets(batch).logit()


class NeverSoftened(ICaRL):
    """The temperature is forgotten."""

    def _answers(self, network: Network, x: Tensor) -> Tensor:
        logits: Tensor = network(x)
        return logits[:, : self._new.start].sigmoid()


def test_the_check_finds_a_forgotten_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    mutated(NeverSoftened, monkeypatch)
    with pytest.raises(AssertionError):
        check_targets(**SOFTENED)


WRONG_TARGETS = [LabelsForOldUnits, LabelsOfExemplars, LogitsAsTargets]


@pytest.mark.parametrize("blocks", [{}, AUGMENTED])
@pytest.mark.parametrize("wrong", [TargetsOfNow, *WRONG_TARGETS])
def test_the_check_finds_wrong_targets(
    wrong: type[ICaRL], blocks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutated(wrong, monkeypatch)
    with pytest.raises(AssertionError):
        check_targets(**blocks)


def first_gradient(running: Trainer) -> tuple[float, float]:
    """Largest gradient of the part that old units learn at the first update of the second task, and of the other."""
    running.run_task()
    strategy = method(running)
    found: list[float] = []
    real = strategy.step

    def watched(batch: Batch, at: Position) -> Losses:
        if not found:
            losses = strategy.loss(batch)
            for name in ("distillation", "task"):
                weight = strategy.network.head.weight
                (gradient,) = torch.autograd.grad(losses[name], weight, retain_graph=True)
                found.append(float(gradient.abs().max()))
        return real(batch, at)

    strategy.step = watched  # type: ignore[method-assign]
    running.run_task()
    return found[0], found[1]


@pytest.mark.parametrize("blocks", [{}, AUGMENTED])
def test_at_the_first_update_old_units_have_nothing_to_learn(blocks: dict[str, Any]) -> None:
    old, new = first_gradient(made(**blocks))
    assert old < 1e-6
    assert new > 1e-2


@pytest.mark.parametrize("wrong", WRONG_TARGETS)
def test_the_gradient_finds_wrong_targets(wrong: type[ICaRL], monkeypatch: pytest.MonkeyPatch) -> None:
    mutated(wrong, monkeypatch)
    assert first_gradient(made())[0] > 1e-3


def test_labels_for_old_units_can_be_asked_for() -> None:
    assert first_gradient(made(options={"distillation": False}))[0] > 1e-3


def by_hand(logits: Tensor, targets: Tensor, y: Tensor) -> float:
    """The loss of algorithm 3, a row and a unit at a time; mean over rows."""
    old, value = targets.shape[1], 0.0
    for row, outputs in enumerate(logits.double().sigmoid()):
        for unit, output in enumerate(outputs):
            wanted = targets[row, unit].double() if unit < old else float(unit == y[row])
            value -= float(wanted * output.log() + (1 - wanted) * (1 - output).log())
    return value / len(y)


def check_loss() -> None:
    running = made()
    running.run_task()
    strategy = method(running)
    strategy.grow(1)
    random = torch.Generator().manual_seed(0)
    x, targets = torch.rand(8, 1, 8, 8, generator=random), torch.rand(8, 2, generator=random)
    y, replayed = torch.tensor([0, 1, 2, 3, 2, 3, 0, 2]), torch.tensor([1, 1, 0, 0, 0, 0, 1, 0]).bool()
    batch = Batch(torch.empty(8, 0), x, y, y // 2, replayed, {"targets": targets})
    with torch.no_grad():
        assert float(total(strategy.loss(batch))) == pytest.approx(by_hand(strategy.network(x), targets, y), rel=1e-5)


def test_the_loss_is_that_of_the_paper() -> None:
    check_loss()


class NewUnitsLearnFromNewRowsOnly(ICaRL):
    """Exemplars do not say that they are none of the new classes."""

    def loss(self, batch: Batch) -> Losses:
        losses = super().loss(batch)
        return {**losses, "task": super().loss(batch[~batch.replayed])["task"]}


class OldUnitsLearnFromExemplarsOnly(ICaRL):
    """New rows do not distil."""

    def loss(self, batch: Batch) -> Losses:
        losses = super().loss(batch)
        if self.task:
            losses["distillation"] = super().loss(batch[batch.replayed])["distillation"]
        return losses


@pytest.mark.parametrize("wrong", [NewUnitsLearnFromNewRowsOnly, OldUnitsLearnFromExemplarsOnly])
def test_the_check_finds_wrong_losses(wrong: type[ICaRL], monkeypatch: pytest.MonkeyPatch) -> None:
    mutated(wrong, monkeypatch)
    with pytest.raises(AssertionError):
        check_loss()


def test_the_check_finds_a_mean_over_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icarl, "_cross_entropy", nn.functional.binary_cross_entropy_with_logits)
    with pytest.raises(AssertionError):
        check_loss()
