"""The quadratic pull: by hand, merged against the plain sum, grown, and with its wrong variants."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.learning.quadratic import Quadratic, StepSizes, require_finite
from raycl.spec.training import TrainingConfig
from raycl.strategies.base import Trainable
from raycl.trial.optimizers import OptimizerSet

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
    """F = (2, 3), theta - theta* = (1, -2): gradient 10 (2, -6) on top of what is there."""
    quadratic = Quadratic()
    quadratic.merge({"w": torch.tensor([2.0, 3.0])}, parameter(1.0, 1.0))
    theta = parameter(2.0, -1.0)
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
    require_finite({"w": torch.ones(2), "v": torch.zeros(1)}, "ewc: F", 1e13, "gradient")
    with pytest.raises(MethodError, match=r"ewc: F must be finite .*lower penalty \(1e\+13\)"):
        require_finite({"w": torch.ones(2), "v": torch.tensor([wrong])}, "ewc: F", 1e13, "gradient")


# -- the proximal step -----------------------------------------------------------------------------------------------


def optimizers(theta: Mapping[str, Tensor], **options: object) -> OptimizerSet:
    made = OptimizerSet(TrainingConfig.model_validate({"optimizer": "sgd", "learning_rate": 0.3, **options}))
    made.build({"network": Trainable.of([p for p in theta.values() if isinstance(p, nn.Parameter)])})
    return made


def check_closed_form(kind: type[Quadratic]) -> None:
    """Three tasks in float64: (theta + r s sum F_i theta_i) / (1 + r s sum F_i), at r = .3, s = 7."""
    random = torch.Generator().manual_seed(0)
    quadratic, total, weighted = kind(), torch.zeros(50).double(), torch.zeros(50).double()
    for task in range(3):
        importance, anchor = torch.rand(2, 50, generator=random, dtype=torch.float64) * 10.0 ** (task - 1)
        importance[:5] = 0
        quadratic.merge({"w": importance}, {"w": nn.Parameter(anchor)})
        total, weighted = total + importance, weighted + importance * anchor
    theta = {"w": nn.Parameter(torch.randn(50, generator=random, dtype=torch.float64))}
    start = theta["w"].detach().clone()
    theta["w"].grad = torch.zeros_like(start)
    quadratic.pull(theta, 7.0, optimizers(theta))
    expected = (start + 0.3 * 7 * weighted) / (1 + 0.3 * 7 * total)
    torch.testing.assert_close(theta["w"].detach(), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(theta["w"][:5], start[:5]), "what holds nothing is left to the last bit"


class Halved(Quadratic):
    """A mutant: a second 1/2."""

    def pull(self, parameters: Mapping[str, Tensor], strength: float, optimizers: StepSizes) -> None:
        super().pull(parameters, strength / 2, optimizers)


class Explicit(Quadratic):
    """A mutant: a gradient step on the penalty, after the task's."""

    @torch.no_grad()
    def pull(self, parameters: Mapping[str, Tensor], strength: float, optimizers: StepSizes) -> None:
        (size,) = optimizers.step_sizes([parameters["w"]])
        parameters["w"].sub_(size * strength * self.importance["w"] * (parameters["w"] - self.anchor["w"]))


def test_the_proximal_step_is_its_closed_form() -> None:
    check_closed_form(Quadratic)


@pytest.mark.parametrize("mutant", [Halved, Explicit, LastAnchor])
def test_other_steps_are_caught(mutant: type[Quadratic]) -> None:
    with pytest.raises(AssertionError):
        check_closed_form(mutant)


@pytest.mark.parametrize("importance", [1e-30, 1.0, 1e10, 3e38])
def test_it_is_nearer_to_the_anchor_at_any_strength(importance: float) -> None:
    quadratic, theta = Quadratic(), parameter(-2.0, 3.0)
    quadratic.merge({"w": torch.full((2,), importance)}, parameter(1.0, 1.0))
    theta["w"].grad = torch.zeros(2)
    quadratic.pull(theta, 1e15, optimizers(theta))
    assert ((theta["w"] >= torch.tensor([-2.0, 1.0])) & (theta["w"] <= torch.tensor([1.0, 3.0]))).all()
    if importance >= 1:
        assert theta["w"].tolist() == pytest.approx([1.0, 1.0])


def test_parameters_at_rest_are_not_pulled() -> None:
    quadratic, theta = Quadratic(), parameter(2.0)
    quadratic.merge({"w": torch.ones(1)}, parameter(1.0))
    quadratic.pull(theta, 1.0, optimizers(theta))
    assert theta["w"].item() == 2.0


def followed(proximal: bool, rate: float, momentum: float, kind: type[Quadratic] = Quadratic) -> Tensor:
    """Where gradient descent stands at time 1 (1 / rate steps), on the loss 1/2 B (theta - b)^2 with F = (4, 1, 0)."""
    quadratic = kind()
    quadratic.merge({"w": torch.tensor([4.0, 1.0, 0.0])}, parameter(1.0, -2.0, 5.0))
    theta = {"w": nn.Parameter(torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64))}
    quadratic.importance = {"w": quadratic.importance["w"].double()}
    quadratic.anchor = {"w": quadratic.anchor["w"].double()}
    steps = optimizers(theta, learning_rate=rate * (1 - momentum), momentum=momentum)
    for _ in range(round(1 / rate)):
        steps.zero_grad()
        (0.5 * torch.tensor([1.0, 3.0, 2.0]) * (theta["w"] - torch.tensor([-1.0, 2.0, 0.5])).square()).sum().backward()
        if not proximal:
            quadratic.add_gradients(theta, 0.7)
        steps.step()
        if proximal:
            quadratic.pull(theta, 0.7, steps)
    return theta["w"].detach()


def gaps(momentum: float, kind: type[Quadratic] = Quadratic) -> list[float]:
    """Largest distances of both forms, at rates that are halved three times."""
    rates = [0.005 / 2**halving for halving in range(4)]
    forms = [(followed(True, rate, momentum, kind), followed(False, rate, momentum)) for rate in rates]
    return [float((one - other).abs().max()) for one, other in forms]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_both_forms_meet_in_the_limit_of_small_steps(momentum: float) -> None:
    found = gaps(momentum)
    ratios = [larger / smaller for larger, smaller in pairwise(found)]
    assert all(1.8 < ratio < 2.2 for ratio in ratios), "the distance falls as the rate does"


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_pull_of_another_strength_is_caught(momentum: float) -> None:
    found = gaps(momentum, Halved)
    assert found[-1] > 0.9 * found[0]


ADAPTIVE = ["adam", "adamw", "adagrad", "rmsprop"]


def resting_place(name: str) -> tuple[Tensor, Tensor]:
    """Where task and pull balance, at strength 1000 and a loss of as small a gradient; and where they should."""
    first, second = torch.tensor([4.0, 1.0, 0.5]), torch.tensor([1.0, 3.0, 2.0])
    a, b = torch.tensor([1.0, -2.0, 0.3]), torch.tensor([-1.0, 2.0, 0.5])
    quadratic, theta = Quadratic(), {"w": nn.Parameter(a.clone())}
    quadratic.merge({"w": 1e-5 * first}, {"w": nn.Parameter(a)})
    steps = optimizers(theta, optimizer=name, learning_rate=0.5 if name == "adagrad" else 1e-2)
    for _ in range(2000):
        steps.zero_grad()
        (0.5 * 1e-2 * second * (theta["w"] - b).square()).sum().backward()
        steps.step()
        quadratic.pull(theta, 1e3, steps)
    return theta["w"].detach(), (first * a + second * b) / (first + second)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_steps_rest_where_the_gradients_cancel(name: str) -> None:
    found, expected = resting_place(name)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_learning_rate_alone_is_another_strength(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "raycl.trial.optimizers.step_size", lambda optimizer, parameter: optimizer.param_groups[0]["lr"]
    )
    found, expected = resting_place(name)
    assert (found - expected).abs().max() > 0.1


def test_the_error_names_the_proximal_step_only_where_it_is_another() -> None:
    wrong = {"w": torch.tensor([float("inf")])}
    with pytest.raises(MethodError, match="set penalty_step: proximal, which is stable at any strength"):
        require_finite(wrong, "ewc: F", 1.0, "gradient")
    with pytest.raises(MethodError, match=r"training\.learning_rate$"):
        require_finite(wrong, "ewc: F", 1.0, "proximal")
