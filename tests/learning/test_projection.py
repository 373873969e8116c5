"""GEM's quadratic programme against enumeration, closed forms and its own constraints."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from raycl.errors import MethodError
from raycl.learning.projection import RIDGE, project, solve_dual

SEEDS = range(12)


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
    ridged = gram + RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
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


def test_gradients_that_are_not_finite_are_refused() -> None:
    gradient, past = problem(0, 2)
    with pytest.raises(MethodError, match="finite"):
        project(gradient * float("nan"), past)
