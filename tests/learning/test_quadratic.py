"""The quadratic pull: by hand, merged against the plain sum, grown, and with its wrong variants."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.learning.quadratic import Quadratic, require_finite

STRENGTH = 1e10


def parameter(*values: float) -> dict[str, Tensor]:
    return {"w": nn.Parameter(torch.tensor(values))}


def pull(quadratic: Quadratic, parameters: Mapping[str, Tensor], strength: float = 1.0) -> Tensor:
    for value in parameters.values():
        value.grad = torch.zeros_like(value)
    quadratic.add_gradients(parameters, strength)
    grad = parameters["w"].grad
    assert grad is not None
    return grad


def test_two_parameters_by_hand() -> None:
    """F = (2, 3), theta - theta* = (1, -2): value (2 + 12) / 2, gradient 10 (2, -6) on top of what is there."""
    quadratic = Quadratic()
    quadratic.merge({"w": torch.tensor([2.0, 3.0])}, parameter(1.0, 1.0))
    theta = parameter(2.0, -1.0)
    assert quadratic.value(theta).item() == 7.0
    theta["w"].grad = torch.tensor([1.0, 1.0])
    quadratic.add_gradients(theta, 10.0)
    assert theta["w"].grad.tolist() == [21.0, -59.0]


class Cancelling(Quadratic):
    """A mutant: keeps sum F and sum F theta, whose difference cancels."""

    def merge(self, importance: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        for name, new in importance.items():
            self.importance[name] = self.importance.get(name, torch.zeros_like(new)) + new
            self.anchor[name] = self.anchor.get(name, torch.zeros_like(new)) + new * parameters[name].detach()

    def add_gradients(self, parameters: Mapping[str, Tensor], strength: float) -> None:
        for name, value in self.importance.items():
            grad = parameters[name].grad
            assert grad is not None
            grad += strength * (value * parameters[name].detach() - self.anchor[name])


def check_sum(kind: type[Quadratic]) -> None:
    """Six tasks whose parameters differ by little, in float32, against the sum of quadratics in float64."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1000, generator=generator)
    quadratic, expected = kind(), torch.zeros(1000, dtype=torch.float64)
    last = {"w": nn.Parameter(start + 0.01)}
    for task in range(6):
        importance = torch.rand(1000, generator=generator) * 10.0 ** -(task % 3)
        theta = {"w": nn.Parameter(start + 1e-3 * torch.randn(1000, generator=generator))}
        quadratic.merge({"w": importance}, theta)
        expected += STRENGTH * importance.double() * (last["w"].double() - theta["w"].double()).detach()
    torch.testing.assert_close(pull(quadratic, last, STRENGTH).double(), expected, rtol=1e-3, atol=0)


class LastAnchor(Quadratic):
    """A mutant: the sum of all importances, around the last parameters."""

    def merge(self, importance: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        self.replace(importance, parameters, 1.0)


def test_merged_quadratics_equal_their_sum_at_a_large_penalty() -> None:
    check_sum(Quadratic)


def test_a_sum_around_the_last_parameters_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_sum(LastAnchor)


def check_rest(kind: type[Quadratic]) -> None:
    """Parameters that no task has moved, as under a large penalty, are not pulled."""
    generator = torch.Generator().manual_seed(0)
    theta = {"w": nn.Parameter(torch.randn(1000, generator=generator))}
    quadratic = kind()
    for _ in range(6):
        quadratic.merge({"w": torch.rand(1000, generator=generator)}, theta)
    assert not pull(quadratic, theta, STRENGTH).any()


def test_merged_quadratics_are_at_rest_where_each_of_them_is() -> None:
    check_rest(Quadratic)


def test_a_sum_of_importance_times_parameters_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_rest(Cancelling)


class Aliased(Quadratic):
    """A mutant: theta* is the live parameter, so that the penalty is always 0."""

    def merge(self, importance: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        super().merge(importance, parameters)
        self.anchor = {name: parameters[name].detach() for name in importance}


def check_anchor(kind: type[Quadratic]) -> None:
    quadratic, theta = kind(), parameter(1.0)
    quadratic.merge({"w": torch.tensor([1.0])}, theta)
    with torch.no_grad():
        theta["w"] += 1
    assert pull(quadratic, theta).item() == 1.0


def test_the_anchor_does_not_follow_the_parameters() -> None:
    check_anchor(Quadratic)
    with pytest.raises(AssertionError):
        check_anchor(Aliased)
    online, theta = Quadratic(), parameter(1.0)
    online.replace({"w": torch.tensor([1.0])}, theta, 1.0)
    with torch.no_grad():
        theta["w"] += 1
    assert pull(online, theta).item() == 1.0


def test_two_quadratic_tasks_meet_where_they_should() -> None:
    """Losses 1/2 A (theta - a)^2 and 1/2 B (theta - b)^2 with F = A: minimum at (A + B)^-1 (A a + B b)."""
    first, second = torch.tensor([4.0, 1.0, 0.0]), torch.tensor([1.0, 3.0, 2.0])
    a, b = torch.tensor([1.0, -2.0, 5.0]), torch.tensor([-1.0, 2.0, 0.5])
    quadratic = Quadratic()
    quadratic.merge({"w": first}, {"w": nn.Parameter(a)})
    theta = {"w": nn.Parameter(a.clone())}
    optimizer = torch.optim.SGD(theta.values(), lr=0.2)
    for _ in range(150):
        optimizer.zero_grad()
        (0.5 * second * (theta["w"] - b).square()).sum().backward()
        quadratic.add_gradients(theta, 1.0)
        optimizer.step()
    torch.testing.assert_close(theta["w"].detach(), (first * a + second * b) / (first + second))


def test_new_rows_are_free_and_join_later() -> None:
    quadratic = Quadratic()
    quadratic.merge({"w": torch.tensor([2.0])}, parameter(1.0))
    grown = parameter(2.0, 5.0)
    assert pull(quadratic, grown).tolist() == [2.0, 0.0]
    assert quadratic.value(grown).item() == 1.0
    quadratic.merge({"w": torch.tensor([2.0, 1.0])}, grown)
    assert quadratic.importance["w"].tolist() == [4.0, 1.0]
    assert quadratic.anchor["w"].tolist() == [1.5, 5.0]


def test_online_decays_once_and_moves_its_anchor() -> None:
    quadratic = Quadratic()
    quadratic.replace({"w": torch.tensor([4.0])}, parameter(1.0), 0.5)
    quadratic.replace({"w": torch.tensor([1.0, 1.0])}, parameter(2.0, 3.0), 0.5)
    assert quadratic.importance["w"].tolist() == [3.0, 1.0]
    assert quadratic.anchor["w"].tolist() == [2.0, 3.0]


def test_nothing_is_pulled_where_nothing_is_known() -> None:
    quadratic = Quadratic()
    quadratic.merge({"w": torch.tensor([0.0, 1.0])}, parameter(1.0, 1.0))
    quadratic.merge({"w": torch.tensor([0.0, 1.0])}, parameter(3.0, 3.0))
    assert pull(quadratic, parameter(9.0, 2.0), 1e13).tolist() == [0.0, 0.0]


def test_state_goes_round() -> None:
    quadratic, restored = Quadratic(), Quadratic()
    quadratic.merge({"w": torch.tensor([2.0, 3.0])}, parameter(1.0, 1.0))
    restored.load_state_dict(quadratic.state_dict(), torch.device("cpu"))
    assert torch.equal(pull(quadratic, parameter(2.0, 2.0)), pull(restored, parameter(2.0, 2.0)))


@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_importances_that_are_not_finite_are_an_error_that_names_the_penalty(wrong: float) -> None:
    require_finite({"w": torch.ones(2), "v": torch.zeros(1)}, "ewc: F", 1e13)
    with pytest.raises(MethodError, match=r"ewc: F must be finite .*lower penalty \(1e\+13\)"):
        require_finite({"w": torch.ones(2), "v": torch.tensor([wrong])}, "ewc: F", 1e13)
