"""Distillation: closed forms, limits, groups of units; and the variants that get it wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raycl.learning.distillation import Softmaxes, distillation, frozen_copy
from raycl.models.network import Network

CPU = torch.device("cpu")
ALL = Softmaxes([range(3)], CPU)


def logits(rows: int, units: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_zero_with_zero_gradient_where_both_agree() -> None:
    teacher = logits(5, 3)
    student = teacher.clone().requires_grad_()
    value = distillation(student, teacher, ALL, 2.0, True)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("squared", [True, False])
def test_the_gradient_is_the_difference_of_probabilities(squared: bool) -> None:
    """d/dz of KL at temperature T is (p - q) / T, of T^2 KL is T (p - q)."""
    temperature, teacher = 2.5, logits(1, 3)
    student = logits(1, 3, seed=1).requires_grad_()
    distillation(student, teacher, ALL, temperature, squared).backward()
    p, q = (student.detach() / temperature).softmax(1), (teacher / temperature).softmax(1)
    factor = temperature if squared else 1 / temperature
    torch.testing.assert_close(student.grad, factor * (p - q))


def test_the_gradient_agrees_with_finite_differences() -> None:
    teacher, student = logits(4, 5), logits(4, 5, seed=1).requires_grad_()
    groups = Softmaxes([range(0, 2), range(2, 5)], CPU)
    assert torch.autograd.gradcheck(lambda z: distillation(z, teacher, groups, 2.0, True), (student,))


def test_a_high_temperature_compares_centred_logits() -> None:
    """T^2 KL -> 1 / (2 C) |d - mean d|^2 with d the difference of logits."""
    teacher, student = logits(6, 3), logits(6, 3, seed=1)
    gap = student - teacher
    expected = (gap - gap.mean(1, keepdim=True)).square().sum(1).mean() / 6
    assert distillation(student, teacher, ALL, 200.0, True).item() == pytest.approx(expected.item(), rel=0.02)
    assert distillation(student, teacher, ALL, 200.0, False).item() < 1e-3 * expected.item(), "without T^2 it vanishes"


def test_every_old_head_has_a_softmax_of_its_own() -> None:
    teacher, student = logits(6, 5), logits(6, 5, seed=1)
    heads = [range(0, 2), range(2, 5)]
    together = distillation(student, teacher, Softmaxes(heads, CPU), 2.0, True)
    apart = [
        distillation(student[:, head], teacher[:, head], Softmaxes([range(len(head))], CPU), 2.0, True)
        for head in heads
    ]
    torch.testing.assert_close(together, apart[0] + apart[1])
    mutant = distillation(student, teacher, Softmaxes([range(5)], CPU), 2.0, True)
    assert not torch.isclose(together, mutant), "one softmax over all heads is another loss"
    shifted = student.clone()
    shifted[:, :2] += 7  # a constant within one head changes no probability of its softmax
    torch.testing.assert_close(distillation(shifted, teacher, Softmaxes(heads, CPU), 2.0, True), together)


@pytest.mark.parametrize(
    "groups", [[range(3)], [range(1, 4)], [range(2), range(2, 4)], [range(2), range(3, 5)], [range(3), range(3, 5)]]
)
def test_every_softmax_sees_its_own_units(groups: list[range]) -> None:
    """Whether they lie end to end, leave a gap or differ in size."""
    values = logits(6, 5)
    found = Softmaxes(groups, CPU).of(values)
    for place, group in enumerate(groups):
        assert torch.equal(found[:, place, : len(group)], values[:, group.start : group.stop])


def test_new_units_are_ignored_or_pushed_down() -> None:
    teacher = logits(6, 5)
    student = logits(6, 5, seed=1).requires_grad_()
    old, new = Softmaxes([range(3)], CPU), torch.tensor([3, 4])
    (without,) = torch.autograd.grad(distillation(student, teacher, old, 2.0, True), student)
    assert not without[:, 3:].any()
    (joined,) = torch.autograd.grad(distillation(student, teacher, old, 2.0, True, new), student)
    p = (student.detach() / 2).softmax(1)
    q = torch.cat([(teacher[:, :3] / 2).softmax(1), torch.zeros(6, 2, dtype=torch.float64)], 1)
    torch.testing.assert_close(joined, 2 * (p - q) / 6)


def network() -> Network:
    generator = torch.Generator().manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
    made = Network(backbone, 8, generator)
    made.grow_head(3)
    return made


def test_a_frozen_copy_stays_as_it_is() -> None:
    student = network()
    teacher = frozen_copy(student)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    x = torch.randn(16, 1, 2, 2)
    student.eval()
    assert torch.equal(teacher(x), student(x))
    student.train()
    teacher(x)
    student(x).sum().backward()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
