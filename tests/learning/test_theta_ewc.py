"""EWC on a hypernetwork's weights: closed forms on a linear generator, and autograd row by row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support import penalty_of
from torch import Tensor

from raycl.errors import MethodError
from raycl.learning.fused import FusedOptimizer
from raycl.learning.theta_ewc import ThetaEWC, ThetaEWCOptions, squared_gradients
from raycl.models.hypernetwork import WeightGenerator

SIZES = (30, 5, 10, 2)
KINDS: dict[str, tuple[int | None, int, tuple[int, ...]]] = {
    "chunked": (20, 3, (6,)),
    "two layers": (20, 3, (6, 5)),
    "chunks that fit": (47, 3, (6,)),
    "linear": (20, 3, ()),
    "full": (None, 0, (6,)),
    "full and linear": (None, 0, ()),
}


def made(kind: str) -> tuple[WeightGenerator, Tensor]:
    chunk_size, chunk_dim, hidden = KINDS[kind]
    random = torch.Generator().manual_seed(0)
    generator = WeightGenerator(SIZES, 4, hidden, "tanh", random, chunk_size, chunk_dim)
    return generator.double(), torch.randn(4, generator=random).double()


def rows(count: int) -> Tensor:
    """Gradients of so many log-likelihoods by generated weights."""
    return torch.randn(count, sum(SIZES), generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("kind", KINDS)
def test_squares_are_those_of_autograd_row_by_row(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, embedding = made(kind)
    theta, expected = generator.theta, {name: torch.zeros_like(value) for name, value in generator.theta.items()}
    for row in rows(7):
        weights = generator(embedding[None])[0]
        found = torch.autograd.grad(weights @ row, list(theta.values()))
        for name, gradient in zip(theta, found, strict=True):
            expected[name] += gradient.square()
    monkeypatch.setattr("raycl.learning.theta_ewc.BLOCK_NUMBERS", 2 * generator.weight.numel())
    with torch.no_grad():  # as evaluation would leave it
        sums = squared_gradients(generator, embedding, iter([rows(7)[:3], rows(7)[3:]]))
    for name, value in expected.items():
        torch.testing.assert_close(sums[name], value, rtol=1e-10, atol=1e-12)


def test_regression_through_a_linear_generator_has_a_closed_form() -> None:
    """y = x w, w = W e + b, unit noise: d log p / dW_ij = (y - x w) x_i e_j, and for b the same with e_j = 1."""
    generator = WeightGenerator((3,), 2, (), "relu", torch.Generator().manual_seed(0)).double()
    embedding = torch.tensor([2.0, -1.0]).double()
    random = torch.Generator().manual_seed(2)
    x, y = torch.randn(11, 3, generator=random).double(), torch.randn(11, generator=random).double()
    weights = generator(embedding[None])[0].detach()
    gradients = (y - x @ weights)[:, None] * x  # by the weights: what a notebook hands in
    ewc = held(generator, {"penalty": 3.0})
    ewc.end(embedding, iter([gradients]), 11, "this")
    by_input = ((y - x @ weights)[:, None] * x).square().mean(0)
    torch.testing.assert_close(ewc.past.importance["weight"], by_input[:, None] * embedding.square())
    torch.testing.assert_close(ewc.past.importance["bias"], by_input)


class Optimizers:
    """One optimiser over theta, as the trainer's set would step it."""

    def __init__(self, generator: WeightGenerator, rate: float) -> None:
        self.rate = rate
        groups = [{"params": list(generator.parameters()), "lr": rate, "weight_decay": 0.0}]
        self.sgd = FusedOptimizer("sgd", groups)

    def step_sizes(self, parameters: Any) -> list[Tensor | float]:
        return [self.rate for _ in parameters]


def held(generator: WeightGenerator, options: dict[str, Any], rate: float = 0.1) -> ThetaEWC:
    return ThetaEWC(generator, ThetaEWCOptions.model_validate(options), Optimizers(generator, rate))


def ended(generator: WeightGenerator, embedding: Tensor, **options: Any) -> ThetaEWC:
    ewc = held(generator, {"penalty": 2.0, **options})
    ewc.end(embedding, [rows(5)], 5, "this")
    return ewc


def moved(generator: WeightGenerator) -> None:
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += 0.1


def test_the_pull_is_the_gradient_of_the_penalty() -> None:
    generator, embedding = made("chunked")
    ewc = ended(generator, embedding)
    moved(generator)
    for parameter in generator.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ewc.before_update()
    theta = generator.theta
    penalty = sum(
        (ewc.past.importance[name] * (value - ewc.past.anchor[name]).square()).sum() for name, value in theta.items()
    )
    slopes = torch.autograd.grad(2.0 / 2 * penalty, list(theta.values()))
    assert penalty_of(ewc.past, theta) > 0
    for parameter, slope in zip(theta.values(), slopes, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, slope)


def test_the_proximal_step_ends_where_pull_and_way_balance() -> None:
    generator, embedding = made("chunked")
    ewc = ended(generator, embedding, penalty_step="proximal")
    moved(generator)
    before = {name: value.detach().clone() for name, value in generator.theta.items()}
    for parameter in generator.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ewc.before_update()
    assert not any(bool(parameter.grad.any()) for parameter in generator.parameters() if parameter.grad is not None)
    ewc.after_update()
    for name, value in generator.theta.items():
        times = 0.1 * 2.0 * ewc.past.importance[name]
        torch.testing.assert_close(value.detach(), (before[name] + times * ewc.past.anchor[name]) / (1 + times))


def test_importances_decay_and_the_anchor_is_the_latest() -> None:
    generator, embedding = made("chunked")
    ewc = ended(generator, embedding, online_decay=0.25)
    first = {name: value.clone() for name, value in ewc.past.importance.items()}
    moved(generator)
    ewc.end(embedding + 1, [rows(9)], 9, "this")
    own = squared_gradients(generator, embedding + 1, [rows(9)])
    for name, value in generator.theta.items():
        torch.testing.assert_close(ewc.past.importance[name], 0.25 * first[name] + own[name] / 9)
        assert torch.equal(ewc.past.anchor[name], value.detach())


def test_its_state_can_be_put_back_and_is_empty_before_the_first_task_ends() -> None:
    generator, embedding = made("chunked")
    ewc, other = ended(generator, embedding), held(generator, {"penalty": 1.0})
    assert other.state_dict() == {}
    other.load_state_dict(ewc.state_dict(), torch.device("cpu"))
    for name, value in ewc.past.importance.items():
        assert torch.equal(other.past.importance[name], value)
        assert torch.equal(other.past.anchor[name], ewc.past.anchor[name])


def test_without_a_penalty_nothing_is_pulled() -> None:
    generator, _ = made("chunked")
    ewc = held(generator, {})
    assert not ewc.holds
    for parameter in generator.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ewc.before_update()
    ewc.after_update()
    assert not any(bool(parameter.grad.any()) for parameter in generator.parameters() if parameter.grad is not None)


def test_importances_that_overflow_are_refused_with_a_remedy() -> None:
    generator, embedding = made("chunked")

    def huge() -> Iterator[Tensor]:
        yield rows(2) * 1e200

    with pytest.raises(MethodError, match=r"this must be finite.*lower penalty.*proximal"):
        held(generator, {"penalty": 1.0}).end(embedding, huge(), 2, "this")
