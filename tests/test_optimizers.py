"""Optimisers across tasks: scaled, clipped, reset, or extended with their moments."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from raycl.optimizers import OptimizerSet
from raycl.spec.options import TrainingConfig
from raycl.strategies.base import Trainable


def training(**options: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"learning_rate": 0.1, **options})


def stepped(optimizers: OptimizerSet, parameter: nn.Parameter, gradient: float = 1.0) -> torch.Tensor:
    before = parameter.detach().clone()
    parameter.grad = torch.full_like(parameter, gradient)
    optimizers.step()
    return parameter.detach() - before


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad", "rmsprop"])
def test_every_optimiser_moves_against_the_gradient(name: str) -> None:
    parameter = nn.Parameter(torch.zeros(3))
    optimizers = OptimizerSet(training(optimizer=name))
    optimizers.build({"network": Trainable.of([parameter])})
    assert (stepped(optimizers, parameter) < 0).all()


def test_groups_scale_and_schedules_multiply_the_rate() -> None:
    slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizers = OptimizerSet(training(optimizer="sgd"))
    optimizers.build({"network": Trainable([{"params": [slow], "scale": 0.5}, {"params": [fast]}])})
    optimizers.scale_learning_rate(0.1)
    slow.grad, fast.grad = torch.ones(1), torch.ones(1)
    optimizers.step()
    assert (slow.item(), fast.item()) == pytest.approx((-0.005, -0.01))


def test_a_gradient_is_clipped_by_its_norm() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    optimizers = OptimizerSet(training(optimizer="sgd", gradient_clip=1.0))
    optimizers.build({"network": Trainable.of([parameter])})
    assert stepped(optimizers, parameter, 10.0).norm().item() == pytest.approx(0.1, rel=1e-4)


def test_kept_moments_go_on_and_new_rows_start_at_zero() -> None:
    old = nn.Parameter(torch.zeros(2, 3))
    optimizers = OptimizerSet(training(optimizer="sgd", momentum=0.9))
    optimizers.build({"network": Trainable.of([old])})
    stepped(optimizers, old)
    grown = nn.Parameter(torch.cat([old.detach(), torch.zeros(1, 3)]))
    optimizers.build({"network": Trainable.of([grown])}, keep_state=True)
    moved = stepped(optimizers, grown)
    assert moved[:2].flatten().tolist() == pytest.approx([-0.19] * 6)
    assert moved[2].tolist() == pytest.approx([-0.1] * 3)


def test_moments_stay_with_their_parameter_when_another_one_leaves() -> None:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizers = OptimizerSet(training(optimizer="sgd", momentum=0.9))
    optimizers.build({"network": Trainable.of([first, second])})
    first.grad, second.grad = torch.full((2,), 5.0), torch.full((2,), 1.0)
    optimizers.step()
    optimizers.build({"network": Trainable.of([second])}, keep_state=True)
    assert stepped(optimizers, second, 0.0).tolist() == pytest.approx([-0.09] * 2)


def test_a_reset_forgets_the_moments() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    optimizers = OptimizerSet(training(optimizer="sgd", momentum=0.9))
    for _ in range(2):
        optimizers.build({"network": Trainable.of([parameter])})
        assert stepped(optimizers, parameter).tolist() == pytest.approx([-0.1, -0.1])


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_restored_moments_give_the_same_next_step(name: str) -> None:
    settings = training(optimizer=name, momentum=0.9)
    first, second = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    running, restored = OptimizerSet(settings), OptimizerSet(settings)
    running.build({"network": Trainable.of([first])})
    stepped(running, first)
    second.data.copy_(first.data)
    restored.build({"network": Trainable.of([second])})
    restored.load_state_dict(copy.deepcopy(running.state_dict()))
    assert torch.equal(stepped(running, first, 0.5), stepped(restored, second, 0.5))
