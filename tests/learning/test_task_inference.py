"""Entropy inference: the right order, no NaN at saturation, and no dependence between rows."""

from __future__ import annotations

import torch
from torch import Tensor

from raycl.learning.task_inference import least_entropy, log_entropy


def logits(tasks: int = 6, batch: int = 50, units: int = 4) -> Tensor:
    scale = torch.tensor([0.1, 1.0, 3.0]).repeat(tasks)[:tasks, None, None]
    return scale * torch.randn(tasks, batch, units, generator=torch.Generator().manual_seed(0))


def naive_entropy(values: Tensor) -> Tensor:
    """Sum p log p as it is written: NaN where a probability is 0."""
    probability = values.softmax(-1)
    return -(probability * probability.log()).sum(-1)


def test_it_is_the_logarithm_of_the_entropy() -> None:
    values = logits()
    expected = naive_entropy(values.double()).log()
    assert torch.allclose(log_entropy(values).double(), expected, atol=1e-5)


def test_saturated_predictions_keep_their_order_and_are_never_nan() -> None:
    margins = torch.tensor([120.0, 300.0, 1000.0, 5.0])
    values = torch.stack([margins, torch.zeros(4)], dim=1)
    assert bool(naive_entropy(values).isnan().any()), "the mutant: 0 * log 0"
    assert not bool(log_entropy(values).isnan().any())
    assert log_entropy(values).argsort().tolist() == [2, 1, 0, 3]


def test_units_at_minus_infinity_do_not_count() -> None:
    values = logits(units=3)
    padded = torch.cat([values, torch.full_like(values[..., :2], float("-inf"))], dim=-1)
    assert torch.allclose(log_entropy(padded), log_entropy(values), atol=1e-6)
    single = torch.tensor([[4.0, float("-inf")]])
    assert float(log_entropy(single)) == float("-inf") or float(log_entropy(single)) < -1e30


def test_the_most_certain_task_answers() -> None:
    values = logits()
    chosen, answer = least_entropy([values])
    assert torch.equal(chosen, naive_entropy(values.double()).argmin(0))
    assert torch.equal(answer, values[chosen, torch.arange(values.shape[1])])


def test_groups_of_tasks_and_the_rows_beside_a_row_do_not_matter() -> None:
    values = logits()
    chosen, answer = least_entropy([values])
    grouped = least_entropy([values[:1], values[1:4], values[4:]])
    assert torch.equal(grouped[0], chosen)
    assert torch.equal(grouped[1], answer)
    order = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(1))
    shuffled = [least_entropy([part])[0] for part in values[:, order].split(7, dim=1)]
    assert torch.equal(torch.cat(shuffled), chosen[order])


def test_ties_go_to_the_earlier_task_whatever_the_groups() -> None:
    values = logits(tasks=1).repeat(3, 1, 1)
    assert int(least_entropy([values])[0].max()) == 0
    assert int(least_entropy([values[:1], values[1:]])[0].max()) == 0
