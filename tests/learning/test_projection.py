"""Projected gradients: GEM's quadratic programme against enumeration, A-GEM's closed form, and their wrong variants."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
import torch
from old_gradients import from_rows
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from raycl.errors import MethodError
from raycl.learning import projection
from raycl.learning.projection import RIDGE, project_one, shortest, solve_dual

SEEDS = range(12)


def project(gradient: Tensor, past: Tensor, margin: float = 0.0) -> Tensor:
    """Of old gradients ``[tasks, parameters]``."""
    return projection.project(gradient, from_rows(past), margin)


def problem(seed: int, tasks: int, dim: int = 12) -> tuple[Tensor, Tensor]:
    """A gradient that at least one old task objects to, and the old tasks' gradients."""
    random = torch.Generator().manual_seed(seed)
    past = torch.randn(tasks, dim, generator=random, dtype=torch.float64)
    gradient = torch.randn(dim, generator=random, dtype=torch.float64)
    if bool((past @ gradient >= 0).all()):
        gradient = -gradient
    return gradient, past


def enumerated(gram: np.ndarray, products: np.ndarray, margin: float) -> np.ndarray:
    """The dual's minimum over all 2^T choices of which weights stand at the margin."""
    tasks = len(gram)
    best, best_value = None, np.inf
    for free in chain.from_iterable(combinations(range(tasks), count) for count in range(tasks + 1)):
        weights = np.full(tasks, margin)
        held = [task for task in range(tasks) if task not in free]
        if free:
            index = list(free)
            right = -products[index] - gram[np.ix_(index, held)] @ weights[held]
            weights[index] = np.linalg.solve(gram[np.ix_(index, index)], right)
        value = weights @ gram @ weights / 2 + products @ weights
        if (weights >= margin - 1e-12).all() and value < best_value:
            best, best_value = weights, value
    assert best is not None
    return best


def solves(gram: np.ndarray, products: np.ndarray, margin: float, weights: np.ndarray) -> bool:
    ridged = gram + RIDGE * np.diag(gram.diagonal())
    return bool(np.abs(weights - enumerated(ridged, products, margin)).max() < 1e-8)


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("tasks", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_dual_is_solved_exactly(seed: int, tasks: int, margin: float) -> None:
    gradient, past = problem(seed, tasks)
    gram, products = (past @ past.T).numpy(), (past @ gradient).numpy()
    assert solves(gram, products, margin, solve_dual(gram, products, margin))


def test_the_check_fails_on_the_wrong_sign_of_the_linear_term() -> None:
    wrong = []
    for seed in SEEDS:
        gradient, past = problem(seed, 3)
        gram, products = (past @ past.T).numpy(), (past @ gradient).numpy()
        wrong.append(solves(gram, products, 0.0, solve_dual(gram, -products, 0.0)))
    assert not any(wrong)


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_no_old_task_objects_to_the_projection(seed: int, margin: float) -> None:
    gradient, past = problem(seed, 7)
    projected = project(gradient, past, margin)
    assert bool((past @ gradient < 0).any())
    assert bool((past @ projected >= -1e-6).all())


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_the_nearest_such_gradient(seed: int) -> None:
    """Optimality: g~ - g = G^T v with v >= 0, and v_k > 0 only where the constraint is tight."""
    gradient, past = problem(seed, 5)
    projected = project(gradient, past)
    weights = torch.linalg.lstsq(past.T, (projected - gradient)[:, None]).solution[:, 0]
    assert bool((weights >= -1e-6).all())
    assert float((weights * (past @ projected)).abs().max()) < 1e-6


def test_without_objection_the_gradient_itself_is_returned() -> None:
    gradient, past = problem(0, 3)
    agreeing = torch.stack([row if row @ gradient >= 0 else -row for row in past])
    assert project(gradient, agreeing, 0.5) is gradient


def test_a_single_objection_removes_the_component_along_it() -> None:
    gradient, past = problem(0, 1)
    old = past[0]
    expected = gradient - (gradient @ old) / (old @ old) * old
    assert torch.allclose(project(gradient, past), expected, atol=1e-7)


def test_dependent_and_vanishing_old_gradients_do_no_harm() -> None:
    gradient, past = problem(3, 2)
    doubled = torch.cat([past, past, torch.zeros_like(past[:1])])
    assert torch.allclose(project(gradient, doubled), project(gradient, past), atol=1e-6)


def problem_with_a_zero_row(seed: int) -> tuple[Tensor, Tensor, float]:
    """In float32 a gradient, one to eight old ones, and a margin. One old gradient is zero, or its square underflows.

    The others differ in length by up to twelve orders of magnitude, as those of tasks that are well learned do.
    """
    random = torch.Generator().manual_seed(seed)
    tasks, dim = 1 + seed % 8, 16 + 7 * (seed % 29)
    past = torch.randn(tasks, dim, generator=random) * 10 ** (-12 * torch.rand(tasks, 1, generator=random))
    past[seed % tasks] *= (0.0, 1e-25, 1e-40)[seed % 3]
    gradient = torch.randn(dim, generator=random)
    if seed % 5 == 0:
        gradient = -past.sum(0)
    return gradient, past, (0.0, 0.5)[seed % 2]


def check_zero_rows(method: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    for seed in range(300):
        gradient, past, margin = problem_with_a_zero_row(seed)
        projected = method(gradient, past, margin)
        assert projected.isfinite().all()
        lengths = past.double().norm(dim=1)
        held = lengths.square() >= shortest(past)
        products = past.double() @ projected.double() / lengths.clamp(min=1e-300)
        assert bool((products[held] >= -3e-6 * gradient.double().norm()).all()), "the ridge and rounding"


def test_old_gradients_of_zero_leave_300_random_cases_finite_and_feasible() -> None:
    check_zero_rows(project)


def floored(gradient: Tensor, past: Tensor, margin: float) -> Tensor:
    """The mutant: a length of zero is raised to one that can be divided by."""
    gram, products = (past @ past.T).double().numpy(), (past @ gradient).double().numpy()
    if (products >= 0).all():
        return gradient
    np.fill_diagonal(gram, np.maximum(gram.diagonal(), 1e-300))
    return torch.addmv(gradient, past.T, torch.from_numpy(solve_dual(gram, products, margin, 1e-6)).to(past))


def test_a_floor_under_lengths_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_zero_rows(floored)


def test_an_old_gradient_of_zero_changes_nothing_beside_others() -> None:
    gradient, past = problem(3, 3)
    with_zeros = torch.cat([past[:1], torch.zeros_like(past[:1]), past[1:]])
    assert torch.equal(project(gradient, with_zeros, 0.5), project(gradient, past, 0.5))
    assert project(gradient, torch.zeros_like(past), 0.5) is gradient


def relative(past: Tensor, projected: Tensor) -> Tensor:
    """The products with old gradients, over their lengths."""
    products: Tensor = past @ projected / past.norm(dim=1)
    return products


def test_a_short_old_gradient_counts_as_much_as_a_long_one() -> None:
    """A ridge that is measured by the mean length outweighs it."""
    _, past = problem(1, 3)
    gradient = -past.sum(0)
    scales = torch.tensor([1e-5, 1.0, 1e3], dtype=torch.float64)[:, None]
    assert float(relative(scales * past, project(gradient, scales * past)).min()) > -1e-8
    gram, products = (scales * past @ (scales * past).T).numpy(), (scales * past @ gradient).numpy()
    coarse = gram + RIDGE * np.trace(gram) / 3 * np.eye(3)
    wrong = gradient + torch.from_numpy(enumerated(coarse, products, 0.0)) @ (scales * past)
    assert float(relative(scales * past, wrong).min()) < -1e-3


@pytest.mark.parametrize("seed", range(4))
def test_nearly_dependent_old_gradients_are_solved_in_float32(seed: int) -> None:
    """Twenty gradients in three dimensions but for rounding, so that no product is exact to the ridge of float64."""
    random = torch.Generator().manual_seed(seed)
    past = torch.rand(20, 3, generator=random) @ torch.randn(3, 50_000, generator=random)
    gradient = -past.mean(0) + torch.randn(50_000, generator=random)
    projected = project(gradient, past)
    assert float(relative(past, projected).min() / projected.norm()) > -1e-5
    assert float(projected @ gradient) > 0


def test_gradients_that_are_not_finite_are_refused() -> None:
    gradient, past = problem(0, 2)
    with pytest.raises(MethodError, match="finite"):
        project(gradient * float("nan"), past)


# -- one constraint: A-GEM ------------------------------------------------------------------------------------------

One = Callable[[Tensor, Tensor], Tensor]


def pair(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A gradient and one that it points against."""
    gradient, past = problem(seed, 1, dim=500)
    return gradient.to(dtype), 3 * past[0].to(dtype)


def check_one(method: One, dtype: torch.dtype = torch.float64) -> None:
    """Row 16: nothing is left along the reference, and the gradient has not become longer."""
    for seed in SEEDS:
        gradient, reference = pair(seed, dtype)
        projected = method(gradient, reference)
        assert abs(float(projected @ reference)) < 1e-6 * float(gradient.norm() * reference.norm())
        assert float(projected.norm()) <= float(gradient.norm())
        assert float(projected @ gradient) > 0


def by_layer(gradient: Tensor, reference: Tensor) -> Tensor:
    """The mutant: each layer is projected on its own, where it objects."""
    parts = zip(gradient.split(125), reference.split(125), strict=True)
    return torch.cat([project_one(*part) for part in parts])


WRONG: dict[str, One] = {
    "layer by layer": by_layer,
    "over the norm, not its square": lambda g, r: g - (g @ r) / r.norm() * r,
    "the sign of the product": lambda g, r: g + (g @ r) / (r @ r) * r,
    "not at all": lambda g, r: g,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_left_along_a_reference_that_objected(dtype: torch.dtype) -> None:
    check_one(project_one, dtype)


@pytest.mark.parametrize("mutant", list(WRONG))
def test_the_check_fails_on_wrong_projections(mutant: str) -> None:
    with pytest.raises(AssertionError):
        check_one(WRONG[mutant])


@pytest.mark.parametrize("seed", SEEDS)
def test_one_reference_is_gem_with_a_single_constraint(seed: int) -> None:
    gradient, reference = pair(seed)
    torch.testing.assert_close(project_one(gradient, reference), project(gradient, reference[None]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("factor", [1.0, 0.0], ids=["agrees", "is zero"])
def test_a_reference_without_objection_leaves_every_bit(factor: float) -> None:
    gradient, reference = pair(0, torch.float32)
    gradient[:2] = torch.tensor([-0.0, 1e-42])
    projected = project_one(gradient, -factor * reference)
    assert projected.numpy().tobytes() == gradient.numpy().tobytes()


@pytest.mark.parametrize("factor", [1e-17, 1e-19, 1e-21, 1e-25, 1e-42])
def test_a_vanishing_reference_objects_as_long_as_it_has_a_direction(factor: float) -> None:
    gradient, reference = pair(0, torch.float32)
    reference = factor * reference
    projected = project_one(gradient, reference)
    if float(reference.double().square().sum()) < shortest(reference):
        assert projected.numpy().tobytes() == gradient.numpy().tobytes()
    else:
        product = float(projected.double() @ reference.double())
        assert abs(product) < 1e-5 * float(gradient.double().norm() * reference.double().norm())


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device: a number that Python reads."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_nothing_is_waited_for_number_by_number() -> None:
    gradient, past = problem(0, 3)
    with Waits() as waits:
        project_one(gradient, past[0])
        project(gradient, past)
    assert waits.count == 0, "GEM's products come in one table"
    with Waits() as waits:
        bool((past @ gradient >= 0).all())
    assert waits.count == 1, "the check sees it"
