"""The gradients of many groups in one pass, against a loop over the groups, and with its wrong variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
import torch
from old_gradients import to_rows
from torch import Tensor, nn

from raycl.learning import grouped_gradients
from raycl.learning.grouped_gradients import GroupedGradients, GroupGradients
from raycl.models.cnn import CNNConfig
from raycl.models.cnn import build as build_cnn
from raycl.models.mlp import MLPConfig
from raycl.models.mlp import build as build_mlp
from raycl.models.network import Network, initialize
from raycl.models.resnet import ResNet18Config, build_resnet18


class Mixed(nn.Module):
    """Layers used twice, tied weights, rows of several vectors, and convolutions of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.twice = nn.Conv2d(4, 4, 3, groups=2, padding="same")
        self.round = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
        self.oblong = nn.Conv2d(4, 4, (3, 2), padding=(1, 1), dilation=(1, 2), bias=False)
        self.vectors = nn.Linear(64, 4)
        self.norm = nn.LayerNorm(16)
        self.mixed = nn.Linear(16, 16)
        self.tied = nn.Linear(16, 16)
        self.tied.weight = self.mixed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.oblong(self.round(self.twice(self.twice(self.first(x)).tanh()).relu()))
        x = self.norm(self.vectors(x.flatten(2)).flatten(1))
        result: Tensor = self.tied(self.mixed(self.mixed(x).tanh()).tanh())
        return result


class Outside(nn.Module):
    """A layer whose parameters are used without it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(256, 9)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), self.layer.weight, self.layer.bias).tanh()


def own(backbone: nn.Module, features: int, generator: torch.Generator) -> Network:
    initialize(backbone, generator)
    return Network(backbone, features, generator)


SHAPE = (1, 16, 16)
NETWORKS: dict[str, Callable[[torch.Generator], Network]] = {
    "mlp": lambda generator: build_mlp(MLPConfig(hidden=(12, 9)), SHAPE, generator),
    "mlp, batch norm": lambda generator: build_mlp(MLPConfig(hidden=(12, 9), norm="batch"), SHAPE, generator),
    "batch norm": lambda generator: build_cnn(CNNConfig(channels=(4, 6), hidden=9, norm="batch"), SHAPE, generator),
    "group norm": lambda generator: build_cnn(CNNConfig(channels=(4, 8), hidden=9, norm="group"), SHAPE, generator),
    "resnet18": lambda generator: build_resnet18(ResNet18Config(width=2), SHAPE, generator),
    "mixed": lambda generator: own(Mixed(), 16, generator),
    "outside": lambda generator: own(Outside(), 9, generator),
}
EVEN, UNEVEN = [5] * 4, [3, 1, 7, 2]


def made(kind: str, counts: Sequence[int]) -> tuple[Network, Tensor, Tensor]:
    """A network in training mode with running statistics of its own, and rows and labels."""
    generator = torch.Generator().manual_seed(2)
    network = NETWORKS[kind](generator)
    network.grow_head(5)
    network.double()
    x = torch.randn(sum(counts), *SHAPE, generator=generator, dtype=torch.float64)
    network.train()(x)
    return network, x, torch.randint(5, (len(x),), generator=generator)


def grouped(network: Network, x: Tensor, y: Tensor, counts: Sequence[int]) -> GroupGradients:
    def losses(rows: slice, logits: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, y[rows], reduction="none")

    return GroupedGradients(network, x[:1])(x, losses, counts)


def found(network: Network, x: Tensor, y: Tensor, counts: Sequence[int]) -> Tensor:
    return to_rows(grouped(network, x, y, counts), learned(network))


def learned(network: Network) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def looped(network: Network, x: Tensor, y: Tensor, counts: Sequence[int]) -> Tensor:
    """The definition."""
    network.eval()
    parameters, gradients = [p for p in network.parameters() if p.requires_grad], []
    for start, stop in pairwise(accumulate(counts, initial=0)):
        loss = nn.functional.cross_entropy(network(x[start:stop]), y[start:stop])
        gradients.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]))
    network.train()
    return torch.stack(gradients)


def check(kind: str, counts: Sequence[int], method: Callable[..., Tensor] = found) -> None:
    network, x, y = made(kind, counts)
    expected = looped(network, x, y, counts)
    torch.testing.assert_close(method(network, x, y, counts), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("counts", [EVEN, UNEVEN, [4]], ids=["even", "uneven", "one group"])
@pytest.mark.parametrize("kind", list(NETWORKS))
def test_equals_a_loop_over_groups(kind: str, counts: list[int]) -> None:
    check(kind, counts)


@pytest.mark.parametrize("kind", ["mlp", "mlp, batch norm"])
@pytest.mark.parametrize("numbers", [1, 3000, 12000])
def test_equals_it_in_several_passes(kind: str, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped_gradients, "GROUPED_NUMBERS", numbers)
    check(kind, UNEVEN)


@pytest.mark.parametrize("cost", [0, 100], ids=["formed", "factors"])
@pytest.mark.parametrize("counts", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("kind", ["mlp", "mlp, batch norm", "frozen bias", "frozen weight"])
def test_products_and_mixtures(kind: str, counts: list[int], cost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a projection takes, whether gradients are formed or stay in factors."""
    monkeypatch.setattr(grouped_gradients, "PASSES_OVER_NUMBERS", cost)
    network, x, y = made(kind if kind in NETWORKS else "mlp", counts)
    if kind not in NETWORKS:
        network.head.get_parameter(kind.removeprefix("frozen ")).requires_grad_(False)
    gradients, rows = grouped(network, x, y, counts), looped(network, x, y, counts)
    assert len(gradients.factors) == (3 if cost else 0)
    assert (not gradients.formed) == (cost > 0 and kind != "mlp, batch norm")
    vector, weights = torch.randn(rows.shape[1]).double(), torch.tensor([0.5, 0.0, 2.0, 1.0]).double()
    torch.testing.assert_close(gradients.gram(), rows @ rows.T, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients.products(vector), rows @ vector, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients.added(vector, weights), vector + weights @ rows, rtol=1e-9, atol=1e-12)


def test_a_bias_that_products_leave_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant of the Gram matrix: the layers' inputs without the 1 that a bias sees."""
    network, x, y = made("mlp", EVEN)
    gradients, rows = grouped(network, x, y, EVEN), looped(network, x, y, EVEN)
    without = GroupGradients({}, [replace(factors, bias=None) for factors in gradients.factors])
    torch.testing.assert_close(gradients.gram(), rows @ rows.T)
    assert not torch.allclose(without.gram(), rows @ rows.T, rtol=1e-3)


def test_many_rows_are_formed_and_few_stay_in_factors() -> None:
    network, x, _ = made("mlp", EVEN)
    many = GroupedGradients(network, x[:1])._factored([500] * 4)
    few = GroupedGradients(network, x[:1])._factored([5] * 4)
    assert not many
    assert len(few) == 6


def test_wrong_variants_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutants: the sum over a group in place of its mean, and rows of one group counted in another."""
    with pytest.raises(AssertionError):
        check("mlp", UNEVEN, lambda network, x, y, _: found(network, x, y, [1, 3, 7, 2]))
    monkeypatch.setattr(grouped_gradients, "_shares", lambda counts: torch.ones(sum(counts)))
    with pytest.raises(AssertionError):
        check("mlp", UNEVEN)


def passes(kind: str, counts: Sequence[int]) -> int:
    """How often the network runs, beside the once that shows its layers."""
    network, x, y = made(kind, counts)
    runs = 0

    def count(*_: object) -> None:
        nonlocal runs
        runs += 1

    network.register_forward_pre_hook(count)
    found(network, x, y, counts)
    return runs - 1


def test_twenty_groups_take_one_pass_where_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert passes("mlp", [3] * 20) == passes("mlp, batch norm", [3] * 20) == 1
    assert passes("outside", [3] * 20) == passes("batch norm", [3] * 20) == 20
    numbers = 256 + 12 + 12 + 9 + 9 + 5
    monkeypatch.setattr(grouped_gradients, "GROUPED_NUMBERS", numbers * 3 * 7)
    assert passes("mlp", [3] * 20) == 3
    monkeypatch.setattr(grouped_gradients, "GROUPED_NUMBERS", 1)
    assert passes("mlp", [3] * 20) == 20


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_leaves_the_network_as_it_was(kind: str) -> None:
    network, x, y = made(kind, EVEN)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    gradients = found(network, x, y, EVEN)
    assert not gradients.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(layer.training and not layer._forward_hooks for layer in network.modules())


def test_frozen_parameters_are_left_out() -> None:
    network, x, y = made("mlp", EVEN)
    network.head.bias.requires_grad_(False)
    gradients = found(network, x, y, EVEN)
    torch.testing.assert_close(gradients, looped(network, x, y, EVEN))
    assert gradients.shape == (4, sum(p.numel() for p in network.parameters()) - 5)


def test_rows_of_no_loss_add_nothing() -> None:
    """Units outside a task's softmax have a logit of minus infinity, and no gradient."""
    network, x, y = made("mlp", EVEN)

    def masked(rows: slice, logits: Tensor) -> Tensor:
        active = torch.arange(5) < 3
        return nn.functional.cross_entropy(logits.masked_fill(~active, float("-inf")), y[rows] % 3, reduction="none")

    gradients = to_rows(GroupedGradients(network, x[:1])(x, masked, EVEN), learned(network))
    head = gradients[:, -50:].split((45, 5), 1)
    assert gradients.isfinite().all()
    assert not head[0].view(4, 5, 9)[:, 3:].any()
    assert not head[1][:, 3:].any()
    assert head[1][:, :3].all()
