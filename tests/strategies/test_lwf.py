"""Learning without forgetting as a whole: the teacher, the warm-up, where it helps and where it cannot; and mutants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import finish, matrix, trainer, trial
from torch import Tensor

from raycl.errors import MethodError
from raycl.models.network import Network
from raycl.spec.evaluation import EvaluationConfig
from raycl.strategies.base import Losses
from raycl.strategies.lwf import LwF
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

SCENARIOS = ("task", "domain", "class")


def running(scenario: str, **blocks: Any) -> Trainer:
    return trainer(trial("lwf", scenario, **blocks))


def distillations(scenario: str, monkeypatch: pytest.MonkeyPatch, **blocks: Any) -> list[float]:
    """The distillation part of every update of the second task."""
    learning = running(scenario, **blocks)
    learning.run_task()
    parts: list[float] = []
    step = LwF.step

    def recording(self: LwF, batch: Batch, at: Any) -> Losses:
        losses = step(self, batch, at)
        parts.append(losses["distillation"].item())
        return losses

    monkeypatch.setattr(LwF, "step", recording)
    learning.run_task()
    return parts


def check_teacher(scenario: str, monkeypatch: pytest.MonkeyPatch, **blocks: Any) -> None:
    """Student and teacher begin as one, then the student leaves."""
    parts = distillations(scenario, monkeypatch, **blocks)
    assert parts[0] == pytest.approx(0, abs=1e-6)
    assert max(parts) > 1e-4


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_distillation_begins_at_zero_and_then_holds_the_student(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_teacher(scenario, monkeypatch)


def test_a_teacher_that_is_the_student_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.lwf.frozen_copy", lambda network: network)
    with pytest.raises(AssertionError):
        check_teacher("domain", monkeypatch)


def statistics_of_the_teacher(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether its running statistics stay during a task."""
    learning = running("domain", model={"norm": "batch"})
    learning.run_task()
    strategy = learning.strategy
    assert isinstance(strategy, LwF)
    seen: list[Tensor] = []
    step = LwF.step

    def watching(self: LwF, batch: Batch, at: Any) -> Losses:
        losses = step(self, batch, at)
        assert self._teacher is not None
        seen.append(self._teacher.get_buffer("backbone.2.running_mean").clone())
        return losses

    monkeypatch.setattr(LwF, "step", watching)
    learning.run_task()
    return all(torch.equal(seen[0], later) for later in seen)


def test_the_teacher_is_in_evaluation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    assert statistics_of_the_teacher(monkeypatch)


def test_a_teacher_in_training_mode_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(LwF, "train")
    assert not statistics_of_the_teacher(monkeypatch)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_distillation_does_not_depend_on_labels(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learning = running(scenario)
    learning.run_task()
    units = torch.tensor(list(learning.scenario.units(1)))
    loss, found = LwF.loss, []

    def comparing(self: LwF, batch: Batch) -> Losses:
        relabelled = replace(batch, y=units[torch.randint(len(units), (len(batch),))])
        losses = loss(self, batch)
        found.append((losses["distillation"].item(), loss(self, relabelled)["distillation"].item()))
        return losses

    monkeypatch.setattr(LwF, "loss", comparing)
    learning.run_task()
    assert found[-1][0] > 0
    assert all(mine == other for mine, other in found)


def weights(network: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("scenario", ["task", "class"])
@pytest.mark.parametrize(
    "training", [{"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1}, {"weight_decay": 0.1}]
)
def test_a_warm_up_moves_the_new_units_only(scenario: str, training: dict[str, Any]) -> None:
    learning = running(
        scenario, options={"warmup_epochs": 1}, model={"norm": "batch"}, training={**training, "weight_decay": 0.1}
    )
    learning.run_task()
    strategy = learning.strategy
    assert isinstance(strategy, LwF)
    found: list[dict[str, Tensor]] = []
    begin, end = strategy._begin_warm_up, strategy._end_warm_up

    def beginning() -> None:
        begin()
        found.append(weights(strategy.network))

    def ending() -> None:
        end()
        found.append(weights(strategy.network))

    strategy._begin_warm_up, strategy._end_warm_up = beginning, ending  # type: ignore[method-assign]
    learning.run_task()
    before, after = found
    for name, value in before.items():
        if name.startswith("head"):
            assert torch.equal(value[:2], after[name][:2])
            assert not torch.equal(value[2:], after[name][2:])
        else:
            assert torch.equal(value, after[name]), name
    assert any(not torch.equal(value, strategy.network.state_dict()[name]) for name, value in after.items())


def test_a_warm_up_needs_new_units() -> None:
    with pytest.raises(MethodError, match="set warmup_epochs: 0"):
        running("domain", options={"warmup_epochs": 1})


def test_weights_of_the_parts() -> None:
    """``task_share`` at task 3: a third of the new loss, two thirds of the mean over two old heads."""
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, x, torch.full((8,), 4), torch.full((8,), 2), torch.zeros(8, dtype=torch.bool), {})
    losses = []
    for combine in ("sum", "task_share"):
        learning = running("task", options={"penalty": 6.0, "combine": combine})
        learning.run_task()
        strategy = learning.strategy
        for task in (1, 2):
            strategy.grow(task)
        strategy.begin_task(2, None)  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in strategy.network.parameters():
                parameter += 0.01 * torch.arange(parameter.numel()).view_as(parameter) / parameter.numel()
        losses.append(strategy.loss(batch))
    plain, shared = losses
    assert plain["distillation"] > 0
    torch.testing.assert_close(shared["task"], plain["task"] / 3)
    torch.testing.assert_close(shared["distillation"], plain["distillation"] * (2 / 3) / 2)


def test_it_keeps_more_than_naive_where_tasks_share_a_kind_of_image(data_root: Path) -> None:
    settings: dict[str, Any] = {
        "stream": {"dataset": "mnist", "tasks": 5, "train_per_task": 1000},
        "model": {"hidden": [100]},
        "training": {"learning_rate": 1e-3, "batch_size": 32, "epochs": 10},
        "evaluation": EvaluationConfig(future_tasks=False, max_examples=300),
    }
    ours = matrix(trial("lwf", "domain", **settings), data_root).average_accuracy()
    assert ours > matrix(trial("naive", "domain", **settings), data_root).average_accuracy() + 0.04


def test_it_cannot_help_where_inputs_have_nothing_in_common() -> None:
    """On permuted digits the teacher's answers to new images say nothing of the old ones."""
    settings = {
        "stream": {"name": "permuted", "tasks": 3},
        "model": {"hidden": [64, 64]},
        "training": {"learning_rate": 1e-3, "batch_size": 32, "iterations": 200},
    }
    ours = matrix(trial("lwf", "domain", **settings)).average_accuracy()
    assert ours < matrix(trial("naive", "domain", **settings)).average_accuracy() + 0.02


def test_the_teacher_is_charged_and_does_not_grow() -> None:
    learning = running("domain")
    sizes = [row.cost.state_bytes for row in finish(learning) if row.task >= 0]
    network = sum(p.numel() * 4 for p in learning.strategy.network.parameters())
    assert sizes == [network, 2 * network, 2 * network]


def test_a_huge_penalty_does_not_end_in_nan() -> None:
    """Its gradient is a difference of probabilities, and bounded."""
    learning = running("domain", options={"penalty": 1e13}, training={"optimizer": "sgd", "learning_rate": 0.05})
    finish(learning)
    assert all(bool(p.isfinite().all()) for p in learning.strategy.network.parameters())
