"""The path integral: it adds up to the drop of the loss, for each parameter, and its wrong variants do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raycl.learning.path_integral import PathIntegral

CURVATURE = torch.tensor([4.0, 1.0, 0.5, 0.0])
START = torch.tensor([1.0, -2.0, 3.0, 5.0])


def loss(theta: Tensor) -> Tensor:
    return 0.5 * (CURVATURE * theta.square()).sum()


def descend(kind: type[PathIntegral], rate: float, updates: int = 100) -> tuple[Tensor, Tensor]:
    """Gradient descent on the quadratic. Returns the integral per parameter, and the drop of its own term."""
    theta = nn.Parameter(START.clone())
    path = kind({"theta": theta})
    optimizer = torch.optim.SGD([theta], lr=rate)
    for _ in range(updates):
        optimizer.zero_grad()
        loss(theta).backward()
        path.before_update()
        optimizer.step()
        path.after_update()
    integral = path.importance(1e-12, clamp=False)["theta"] * ((theta.detach() - START).square() + 1e-12)
    drop = 0.5 * CURVATURE * (START.square() - theta.detach().square())
    return integral, drop


def check_sum(kind: type[PathIntegral]) -> None:
    integral, drop = descend(kind, rate=0.01)
    assert 1.0 <= integral.sum() / drop.sum() <= 1.02


def test_the_integral_adds_up_to_the_drop_of_the_loss() -> None:
    check_sum(PathIntegral)
    ratios = [
        (integral.sum() / drop.sum()).item() for integral, drop in (descend(PathIntegral, r) for r in (0.1, 1e-3))
    ]
    assert ratios[0] > 1.05, "the step of a large learning rate overshoots its linear part"
    assert ratios[1] == pytest.approx(1, abs=2e-3)


def test_each_parameter_gets_its_own_share_and_an_unused_one_nothing() -> None:
    integral, drop = descend(PathIntegral, rate=0.001)
    torch.testing.assert_close(integral, drop, rtol=0.01, atol=1e-6)
    assert integral[3] == 0


class Reversed(PathIntegral):
    """A mutant: the sign of the displacement is the other one."""

    def after_update(self) -> None:
        super().after_update()
        for integral, gradient, moved in zip(self._integral, self._gradient, self._before, strict=True):
            integral.sub_(2 * gradient * moved)


class TooEarly(PathIntegral):
    """A mutant: the displacement is taken before the update, where it is zero."""

    def before_update(self) -> None:
        super().before_update()
        super().after_update()

    def after_update(self) -> None:
        pass


class Stale(PathIntegral):
    """A mutant: the displacement is always from where the task began."""

    def before_update(self) -> None:
        super().before_update()
        for before, start in zip(self._before, self._start, strict=True):
            before.copy_(start)


@pytest.mark.parametrize("mutant", [Reversed, TooEarly, Stale])
def test_a_wrong_displacement_is_caught(mutant: type[PathIntegral]) -> None:
    with pytest.raises(AssertionError):
        check_sum(mutant)


def test_importance_by_hand() -> None:
    """One update: gradient (2, -1, 3), displacement (-0.5, 0, 1): omega (1, 0, -3), over displacement^2 + 0.25."""
    theta = nn.Parameter(torch.zeros(3))
    path = PathIntegral({"theta": theta})
    theta.grad = torch.tensor([2.0, -1.0, 3.0])
    path.before_update()
    theta.grad.zero_()  # what happens to the gradient later, by clipping or a penalty, does not count
    with torch.no_grad():
        theta.copy_(torch.tensor([-0.5, 0.0, 1.0]))
    path.after_update()
    assert path.importance(0.25, clamp=False)["theta"].tolist() == pytest.approx([2.0, 0.0, -2.4])
    assert path.importance(0.25, clamp=True)["theta"].tolist() == pytest.approx([2.0, 0.0, 0.0])


def test_a_parameter_at_rest_takes_no_part() -> None:
    theta = nn.Parameter(torch.ones(2))
    path = PathIntegral({"theta": theta})
    path.before_update()
    with torch.no_grad():
        theta += 1
    path.after_update()
    assert not path.importance(0.1, clamp=False)["theta"].any()
