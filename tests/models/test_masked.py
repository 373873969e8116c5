"""Masks: the straight-through gradient, which entries are kept, packed bits, and weights that a seed decides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from raycl.errors import MethodError
from raycl.models import masked
from raycl.models.masked import MaskedWeights, RunningStatistics, above, fix_signed_constants, largest, signed
from raycl.models.network import Network


def module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 5), nn.ReLU(), nn.Linear(5, 3)
    )


def random_scores(weights: MaskedWeights) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator).requires_grad_() for name, shape in weights.shapes.items()}


def check_straight_through() -> None:
    """dL/dscore = dL/d(W * m) * W, for scores on either side of the threshold."""
    network = module().eval()
    weights = MaskedWeights(network)
    scores = random_scores(weights)
    x = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    effective = weights.apply({name: above(value, 0.2) for name, value in scores.items()})
    for value in effective.values():
        value.retain_grad()
    functional_call(network, effective, (x,)).logsumexp(1).sum().backward()
    for name, weight in weights.weights().items():
        by_weight, by_score = effective[name].grad, scores[name].grad
        assert by_weight is not None
        assert by_score is not None
        assert bool(by_weight[scores[name] <= 0.2].any()), "closed entries learn too"
        assert torch.allclose(by_score, by_weight * weight, atol=1e-6)


def test_the_gradient_of_scores_is_that_of_the_masked_weight_times_the_weight() -> None:
    check_straight_through()


class _OpenOnly(torch.autograd.Function):
    """A mutant of the straight-through gradient: it stops where the mask is 0."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, decision: Tensor) -> Tensor:
        ctx.save_for_backward(decision)
        return decision

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.saved_tensors[0], None


def apply_without_weight(self: MaskedWeights, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A mutant of W * m: its gradient for the mask lacks W."""
    values = {name: weight * masks[name].detach() for name, weight in self.weights().items()}
    return {name: value + masks[name] - masks[name].detach() for name, value in values.items()}


@pytest.mark.parametrize(
    ("owner", "name", "mutant"),
    [(MaskedWeights, "apply", apply_without_weight), (masked, "_StraightThrough", _OpenOnly)],
)
def test_wrong_gradients_of_scores_are_caught(
    owner: object, name: str, mutant: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, mutant)
    with pytest.raises(AssertionError):
        check_straight_through()


def test_a_threshold_decides_and_ternary_masks_have_a_sign() -> None:
    scores = torch.tensor([-0.1, 0.0, 0.004, 0.005, 0.006])
    assert above(scores, 0.005).tolist() == [0, 0, 0, 0, 1]
    assert signed(scores, 0.005).tolist() == [-1, 0, 0, 0, 1]
    zero = torch.zeros(2, requires_grad=True)
    signed(zero, 0.005).sum().backward()
    assert zero.grad is not None
    assert zero.grad.tolist() == [1, 1]


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.77, 1.0])
def test_the_largest_in_size_are_kept_to_the_exact_number(fraction: float) -> None:
    scores = torch.randn(40, 25, generator=torch.Generator().manual_seed(0))
    mask = largest(scores, fraction)
    assert int(mask.sum()) == round(1000 * fraction)
    assert all(scores.abs()[mask == 1].min() >= size for size in scores.abs()[mask == 0])


def test_equal_scores_are_kept_to_the_exact_number_too() -> None:
    assert int(largest(torch.ones(30), 0.5).sum()) == 15


def test_a_negative_score_turns_the_gradient_of_its_size_round() -> None:
    scores = torch.tensor([3.0, -3.0, 1.0, -1.0], requires_grad=True)
    (largest(scores, 0.5) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [1, -2, 3, -4]


def test_linear_and_convolutional_weights_are_masked_and_nothing_else() -> None:
    network = Network(module(), 3, torch.Generator())
    assert list(MaskedWeights(network.backbone).shapes) == ["0.weight", "4.weight", "6.weight"]
    network.grow_head(2)
    assert list(MaskedWeights(network).shapes)[-1] == "head.weight"
    with pytest.raises(MethodError, match="give the model a hidden layer"):
        MaskedWeights(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3)))


def test_open_masks_are_the_module_itself() -> None:
    network = module().eval()
    weights = MaskedWeights(network)
    x = torch.randn(2, 1, 4, 4)
    opened = weights.apply({name: torch.ones(shape) for name, shape in weights.shapes.items()})
    assert torch.equal(functional_call(network, opened, (x,)), network(x))


def test_bits_come_back_as_they_went_and_take_an_eighth_of_a_byte() -> None:
    weights = MaskedWeights(module())
    masks = {name: above(value, 0.0) for name, value in random_scores(weights).items()}
    bits = weights.pack(masks)
    assert weights.numel == 27 + 60 + 15
    assert bits.dtype == torch.uint8
    assert bits.numel() == math.ceil(weights.numel / 8)
    stacked = weights.unpack(torch.stack([bits, ~bits]))
    assert torch.equal(stacked[0], ~stacked[1])
    for name, mask in weights.split(stacked[0]).items():
        assert torch.equal(mask.float(), masks[name])


def test_signed_constants_follow_from_the_seed() -> None:
    one, same, other = module(), module(), module()
    for network, seed in ((one, 7), (same, 7), (other, 8)):
        fix_signed_constants(network, seed)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in one.state_dict().items())
    assert not torch.equal(one.get_parameter("0.weight"), other.get_parameter("0.weight"))
    for name, weight in MaskedWeights(one).weights().items():
        assert torch.allclose(weight.abs(), torch.full_like(weight, math.sqrt(2 / weight[0].numel()))), name
        assert bool((weight > 0).any())
        assert bool((weight < 0).any())
    assert not any(value.any() for name, value in one.named_parameters() if name.endswith("bias"))
    assert one.get_parameter("1.weight").tolist() == [1.0] * 3
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_statistics_are_copied_and_begin_anew() -> None:
    network = module()
    statistics = RunningStatistics(network)
    fresh = statistics.flat()
    network(torch.randn(8, 1, 4, 4))
    moved = statistics.flat()
    assert not torch.equal(moved, fresh)
    assert torch.equal(statistics.split(moved)["1.running_var"], network.get_buffer("1.running_var"))
    statistics.reset()
    assert torch.equal(statistics.flat(), fresh)
    assert not torch.equal(moved, fresh), "a copy"
    assert RunningStatistics(nn.Linear(2, 2)).flat().numel() == 0
