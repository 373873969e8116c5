"""Task inference by a gradient on the mixture of all tasks: right to the third digit, right in sign, and row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from raycl.learning import superposition
from raycl.learning.superposition import Objective, alpha_gradient, binary, entropy, one_shot, superfluous

TASKS, INPUTS, HIDDEN, UNITS, REAL = 5, 6, 16, 8, 3
SIZES = (HIDDEN * INPUTS, UNITS * HIDDEN)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


W = random(sum(SIZES)).sign() / 4
MASKS = (random(TASKS, sum(SIZES), seed=1) > 0).double()


def forward(vector: Tensor, x: Tensor) -> Tensor:
    """A two-layer network of the masked weights ``[numel]``."""
    first, second = vector.split(SIZES)
    hidden = torch.tanh(x @ first.view(HIDDEN, INPUTS).T)
    return torch.matmul(hidden, second.view(UNITS, HIDDEN).T)


def vectors(group: int = TASKS) -> Iterable[Tensor]:
    return list(torch.split(W * MASKS, group))


OBJECTIVES: dict[str, Objective] = {"entropy": entropy, "G": superfluous(REAL)}


def frozen_real(x: Tensor, alpha: Tensor, name: str) -> Objective:
    """The objective as a function whose value changes as the gradient says: G holds the real units where they are."""
    if name == "entropy":
        return entropy
    real = forward(W * (alpha @ MASKS), x)[:, :REAL]
    return lambda logits: torch.cat([real, logits[:, REAL:]], 1).logsumexp(1).mean()


def check_slope(name: str) -> None:
    """dH/dalpha against central differences of H(f(x; W * sum alpha_i M_i)), for each decision."""
    x, alpha, step = random(4, 3, INPUTS, seed=2), torch.full((TASKS,), 1 / TASKS, dtype=torch.float64), 1e-5
    found = alpha_gradient(alpha, vectors, forward, OBJECTIVES[name], x)
    assert found.abs().max() > 1e-3
    for decision, rows in enumerate(x):
        objective = frozen_real(rows, alpha, name)
        for task, direction in enumerate(torch.eye(TASKS, dtype=torch.float64) * step):
            up, down = (objective(forward(W * ((alpha + sign * direction) @ MASKS), rows)) for sign in (1, -1))
            expected = float(up - down) / (2 * step)
            assert abs(float(found[decision, task]) - expected) <= 1e-3 * max(abs(expected), 1e-3)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_the_slope_equals_finite_differences(name: str) -> None:
    check_slope(name)


def binarised_sum(alpha: Tensor, vectors: Iterable[Tensor]) -> Tensor:
    """A mutant: the union of the masks, in place of their weighted sum."""
    mixed = torch.zeros((), dtype=alpha.dtype)
    for group in vectors:
        mixed = torch.where((group != 0).any(0), W, mixed)
    return mixed


def last_group_only(alpha: Tensor, vectors: Iterable[Tensor]) -> Tensor:
    """A mutant: the mixture forgets a share of the tasks."""
    group = list(vectors)[-1]
    return alpha[..., 1:] @ group[1:]


@pytest.mark.parametrize("mutant", [binarised_sum, last_group_only])
def test_wrong_mixtures_are_caught(mutant: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superposition, "_mixed", mutant)
    with pytest.raises(AssertionError):
        check_slope("entropy")


def test_a_gradient_through_the_real_units_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "G", lambda logits: logits.logsumexp(1).mean())
    with pytest.raises(AssertionError):
        check_slope("G")


def test_shares_may_differ_from_decision_to_decision() -> None:
    x, alpha = random(4, 2, INPUTS, seed=3), random(4, TASKS, seed=4).softmax(1)
    together = alpha_gradient(alpha, vectors, forward, entropy, x)
    for decision in range(4):
        alone = alpha_gradient(alpha[decision], vectors, forward, entropy, x[decision : decision + 1])
        assert torch.allclose(together[decision], alone[0])


@pytest.mark.parametrize("method", [one_shot, binary])
def test_groups_of_tasks_and_decisions_beside_a_decision_do_not_matter(method: Callable[..., Tensor]) -> None:
    x = random(40, 1, INPUTS, seed=5)
    chosen = method(TASKS, vectors, forward, entropy, x)
    assert len(chosen.unique()) > 1
    assert torch.equal(chosen, method(TASKS, lambda: vectors(2), forward, entropy, x))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(6))
    parts = [method(TASKS, vectors, forward, entropy, part) for part in x[order].split(7)]
    assert torch.equal(torch.cat(parts), chosen[order])


def certain_of(task: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Logits that grow with the share of ``task`` and shrink with that of any other: the vectors are the shares."""

    def logits(shares: Tensor, x: Tensor) -> Tensor:
        return x * (1 + 2 * shares[task] - shares.sum())

    return logits


def check_the_certain_task_is_chosen() -> None:
    x = random(3, 2, UNITS, seed=7)
    for method in (superposition.one_shot, superposition.binary):
        for task in range(TASKS):
            chosen = method(TASKS, lambda: [torch.eye(TASKS, dtype=x.dtype)], certain_of(task), entropy, x)
            assert chosen.tolist() == [task] * 3


def test_the_task_that_makes_the_mixture_certain_is_chosen() -> None:
    check_the_certain_task_is_chosen()


def test_the_wrong_sign_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    slope = superposition.alpha_gradient
    monkeypatch.setattr(superposition, "alpha_gradient", lambda *given: -slope(*given))
    with pytest.raises(AssertionError):
        check_the_certain_task_is_chosen()


def test_binary_halves_the_tasks_and_mixes_those_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a plain loop over decisions and rounds."""
    shares: list[Tensor] = []
    slope = superposition.alpha_gradient

    def watched(alpha: Tensor, *given: object) -> Tensor:
        shares.append(alpha)
        return slope(alpha, *given)  # type: ignore[arg-type]

    x = random(10, 2, INPUTS, seed=8)
    expected = []
    for rows in x:
        left = list(range(TASKS))
        while len(left) > 1:
            alpha = torch.zeros(TASKS, dtype=x.dtype)
            alpha[left] = 1 / len(left)
            gradient = slope(alpha, vectors, forward, entropy, rows[None])[0]
            left = sorted(left, key=lambda task: float(gradient[task]))[: -(-len(left) // 2)]
        expected += left
    monkeypatch.setattr(superposition, "alpha_gradient", watched)
    assert superposition.binary(TASKS, vectors, forward, entropy, x).tolist() == expected
    assert [int((alpha > 0).sum(1).unique()) for alpha in shares] == [5, 3, 2], "ceil(log2(5)) rounds"
    assert all(torch.allclose(alpha.sum(1), torch.ones(10, dtype=x.dtype)) for alpha in shares)


@pytest.mark.parametrize("method", [one_shot, binary])
def test_a_single_task_is_always_chosen(method: Callable[..., Tensor]) -> None:
    x = random(4, 1, INPUTS)
    assert method(1, lambda: [(W * MASKS)[:1]], forward, entropy, x).tolist() == [0] * 4


def test_saturated_predictions_give_no_nan() -> None:
    logits = (1e4 * random(2, UNITS)).requires_grad_()
    entropy(logits).backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
