"""The step size of each optimiser, against what it really does with a steady gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raycl.spec.training import TrainingConfig
from raycl.strategies.base import Trainable
from raycl.trial.optimizers import OptimizerSet

GRADIENT = torch.tensor([[1e-3], [0.3], [-20.0]])


def steady(name: str, momentum: float = 0.0, rows: list[range] | None = None) -> tuple[Tensor, Tensor]:
    """The last of many steps, per unit of gradient, and the step size that is told."""
    parameter = nn.Parameter(torch.zeros(3, 1, dtype=torch.float64))
    settings = TrainingConfig.model_validate(
        {"optimizer": name, "learning_rate": 0.01, "momentum": momentum, "weight_decay": 1e-12}
    )
    optimizers = OptimizerSet(settings)
    optimizers.build({"network": Trainable.of([parameter])}, None if rows is None else {parameter: rows})
    optimizers.set_rates(lambda settings: 0.5)
    for _ in range(1000):
        before = parameter.detach().clone()
        parameter.grad = GRADIENT.double()
        optimizers.step()
    (size,) = optimizers.step_sizes([parameter])
    return (before - parameter.detach()) / GRADIENT, torch.as_tensor(size).expand(3, 1)


@pytest.mark.parametrize(
    ("name", "momentum"),
    [("sgd", 0.0), ("sgd", 0.9), ("adam", 0.0), ("adamw", 0.0), ("adagrad", 0.0), ("rmsprop", 0.0), ("rmsprop", 0.9)],
)
def test_it_is_how_far_a_steady_gradient_goes(name: str, momentum: float) -> None:
    found, told = steady(name, momentum)
    torch.testing.assert_close(told.double(), found, rtol=1e-3, atol=0)


def test_a_single_number_where_all_entries_have_the_same() -> None:
    assert steady("sgd")[1].flatten().tolist() == pytest.approx([0.005] * 3)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_rows_that_did_not_learn_did_not_step(name: str) -> None:
    found, told = steady(name, rows=[range(1), range(2, 3)])
    torch.testing.assert_close(told.double(), found, rtol=1e-3, atol=0)
    assert told[1].item() == 0
