"""The diagonal Fisher information against closed forms, against a loop over single examples, and against a mutant."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.learning import fisher, per_example
from raycl.learning.fisher import FisherLabels, diagonal_fisher
from raycl.learning.perceptron import _others, is_perceptron
from raycl.models.mlp import MLPConfig
from raycl.models.mlp import build as build_mlp
from raycl.models.network import Network, initialize
from raycl.streams.task import Batch

Method = Callable[..., dict[str, Tensor]]


def rows(x: Tensor, y: Tensor) -> Batch:
    none = torch.zeros_like(y)
    return Batch(x, x, y, none, none.bool())


def split(batch: Batch, size: int) -> list[Batch]:
    return [batch[slice(start, start + size)] for start in range(0, len(batch), size)]


def every(outputs: int) -> Callable[[Batch], Tensor]:
    return lambda batch: torch.ones(len(batch), outputs, dtype=torch.bool)


def of(network: nn.Module, batches: Iterable[Batch], outputs: int, labels: FisherLabels = "exact") -> dict[str, Tensor]:
    return diagonal_fisher(network, batches, every(outputs), labels, torch.Generator().manual_seed(3))


def one_by_one(network: nn.Module, batch: Batch, labels: FisherLabels) -> dict[str, Tensor]:
    """The definition, an example and a label at a time."""
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in named.items()}
    network.eval()
    for index in range(len(batch)):
        log_p = network(batch.x[index : index + 1]).log_softmax(1)[0]
        for label in range(len(log_p)) if labels == "exact" else [int(batch.y[index])]:
            weight = log_p[label].exp().detach() if labels == "exact" else 1.0
            gradients = torch.autograd.grad(log_p[label], list(named.values()), retain_graph=True)
            for name, gradient in zip(named, gradients, strict=True):
                sums[name] += weight * gradient.square() / len(batch)
    return sums


def batched(network: nn.Module, batches: Iterable[Batch], outputs: int, labels: FisherLabels) -> dict[str, Tensor]:
    """The mutant: the square of a batch's mean gradient, about B times too small."""
    named = dict(network.named_parameters())
    sums = {name: torch.zeros_like(p) for name, p in named.items()}
    batches = list(batches)
    for batch in batches:
        loss = nn.functional.cross_entropy(network(batch.x), batch.y)
        for name, gradient in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
            sums[name] += gradient.square() / len(batches)
    return sums


def softmax_regression() -> tuple[Network, Batch]:
    """A linear classifier of 5 classes, and 2,000 examples whose labels it draws itself."""
    generator = torch.Generator().manual_seed(0)
    network = Network(nn.Flatten(), 6, generator)
    network.grow_head(5)
    x = torch.randn(2000, 1, 2, 3, generator=generator)
    p = network(x).softmax(1).detach()
    return network, rows(x, torch.multinomial(p, 1, generator=generator).flatten())


def check_closed_form(method: Method) -> None:
    """F of class c and input d is the mean of p_c (1 - p_c) x_d^2."""
    network, batch = softmax_regression()
    found = method(network, split(batch, 64), 5, "exact")
    p, x = network(batch.x).softmax(1).detach(), batch.x.flatten(1)
    variance = p * (1 - p)
    torch.testing.assert_close(found["head.weight"], variance.T @ x.square() / len(x), rtol=1e-5, atol=0)
    torch.testing.assert_close(found["head.bias"], variance.mean(0), rtol=1e-5, atol=0)


def test_softmax_regression_in_closed_form() -> None:
    check_closed_form(of)


def test_the_square_of_a_mean_gradient_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_closed_form(batched)
    network, batch = softmax_regression()
    ratio = (
        batched(network, split(batch, 64), 5, "exact")["head.weight"].sum()
        / of(network, [batch], 5)["head.weight"].sum()
    )
    assert 0.5 < 64 * ratio < 2


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
def test_the_variants_agree_where_the_model_drew_the_labels(labels: FisherLabels) -> None:
    network, batch = softmax_regression()
    exact = of(network, split(batch, 500), 5)["head.weight"]
    found = of(network, split(batch, 500), 5, labels)["head.weight"]
    torch.testing.assert_close(found.sum(), exact.sum(), rtol=0.05, atol=0)
    torch.testing.assert_close(found, exact, rtol=0.2, atol=0)
    assert not torch.equal(found, exact)


class Twice(nn.Module):
    """A layer used twice, tied weights, an in-place ReLU, a layer norm and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.grouped = nn.Conv2d(4, 4, 3, groups=2, padding="same")
        self.flat = nn.Flatten()
        self.mixed = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.tied = nn.Linear(16, 16)
        self.tied.weight = self.mixed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.flat(self.grouped(self.first(x)))
        result: Tensor = self.tied(self.norm(torch.tanh(self.mixed(torch.tanh(self.mixed(x))))))
        return result


def convolutional(norm: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 6))


class Batched(nn.BatchNorm2d):
    def __init__(self, _: int, channels: int) -> None:
        super().__init__(channels)


BACKBONES: dict[str, Callable[[], tuple[nn.Module, int]]] = {
    "mlp": lambda: (nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(inplace=True), nn.Linear(8, 6)), 6),
    "batch": lambda: (convolutional(Batched), 6),
    "group": lambda: (convolutional(nn.GroupNorm), 6),
    "shared": lambda: (Twice(), 16),
}


@pytest.mark.parametrize("labels", ["exact", "empirical"])
@pytest.mark.parametrize("kind", list(BACKBONES))
def test_equals_a_loop_over_single_examples(kind: str, labels: FisherLabels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_example, "BLOCK_NUMBERS", 100)  # so that gradients per example come in several blocks
    generator = torch.Generator().manual_seed(1)
    backbone, features = BACKBONES[kind]()
    initialize(backbone, generator)
    network = Network(backbone, features, generator)
    network.grow_head(3)
    batch = rows(torch.randn(11, 1, 4, 4, generator=generator), torch.randint(3, (11,), generator=generator))
    network.train()(batch.x)  # running statistics that are not the initial ones
    expected = one_by_one(network, batch, labels)
    found = of(network, split(batch, 4), 3, labels)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6 * float(expected[name].max()))


def perceptron(hidden: tuple[int, ...], outputs: int) -> tuple[Network, Batch]:
    """A deep enough network of two kinds of rows, so that its ReLUs differ, and 40 rows for it."""
    generator = torch.Generator().manual_seed(4)
    network = build_mlp(MLPConfig(hidden=hidden), (1, 4, 4), generator)
    network.grow_head(outputs)
    y = torch.randint(outputs, (40,), generator=generator)
    x = torch.randn(40, 1, 4, 4, generator=generator) + (y % 2 * 4 - 2).view(-1, 1, 1, 1)
    return network.double(), rows(x.double(), y)


def expected_of(network: Network, batch: Batch, active: Tensor) -> dict[str, Tensor]:
    """By a backward pass for every unit."""
    found = per_example.mean_power_of_gradients(
        network,
        [batch],
        lambda logits, part: fisher._log_likelihood_gradients(logits, part.y, active, "exact", torch.Generator()),
        "square",
    )
    return {name: value.clone() for name, value in found.items()}


@pytest.mark.parametrize("outputs", [3, 70])
@pytest.mark.parametrize("hidden", [(), (12,), (12, 9), (12, 9, 10)])
def test_perceptrons_in_closed_form_equal_autograd(hidden: tuple[int, ...], outputs: int) -> None:
    network, batch = perceptron(hidden, outputs)
    assert is_perceptron(network)
    active = torch.rand(40, outputs, generator=torch.Generator().manual_seed(5)) < 0.8
    active[:, 0], active[:, 1] = True, False
    found = diagonal_fisher(network, split(batch, 40), lambda _: active, "exact", torch.Generator())
    for name, value in expected_of(network, batch, active).items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12 * float(value.max()))


@pytest.mark.parametrize("outputs", [3, 70])
def test_errors_that_no_relu_stops_are_caught(outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: every unit passes errors on."""
    network, batch = perceptron((12, 9), outputs)
    everywhere = torch.ones(40, outputs, dtype=torch.bool)
    expected = expected_of(network, batch, everywhere)["backbone.1.weight"]
    assert torch.allclose(of(network, [batch], outputs)["backbone.1.weight"], expected, rtol=1e-9)
    monkeypatch.setattr(Tensor, "__gt__", lambda value, bound: value.ge(-torch.inf))
    assert not torch.allclose(of(network, [batch], outputs)["backbone.1.weight"], expected, rtol=1e-2)


def test_certain_answers_keep_their_information() -> None:
    """Where p is 1 to the last digit but one, 1 - p is rounding, and the sum of the other probabilities is not."""
    p = torch.tensor([[1.0, 3e-8, 1e-9]]) / torch.tensor(1 + 3.1e-8)
    torch.testing.assert_close(_others(p)[0, 0], torch.tensor(3.1e-8), rtol=1e-6, atol=0)
    assert (1 - p)[0, 0] == 0, "the mutant"


@pytest.mark.parametrize("kind", ["no ReLU", "tied", "frozen", "cosines", "norm"])
def test_what_is_no_perceptron_goes_the_general_way(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    network = build_mlp(MLPConfig(hidden=(6, 6), norm="batch" if kind == "norm" else "none"), (1, 2, 3), generator)
    if kind == "no ReLU":
        network.backbone[2] = nn.Tanh()
    elif kind == "tied":
        network.backbone[3].weight = network.backbone[1].weight
    elif kind == "frozen":
        network.backbone[1].requires_grad_(False)
    elif kind == "cosines":
        network.measure_cosines(4.0)
    assert not is_perceptron(network)
    network.grow_head(3)
    batch = rows(torch.randn(6, 1, 2, 3, generator=generator), torch.randint(3, (6,), generator=generator))
    expected = one_by_one(network, batch, "exact")
    for name, value in of(network, [batch], 3).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6 * float(expected[name].max()))


def test_leaves_the_network_as_it_was() -> None:
    generator = torch.Generator().manual_seed(0)
    network = Network(convolutional(Batched), 6, generator)
    network.grow_head(3)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    of(network, [rows(torch.randn(8, 1, 4, 4), torch.zeros(8, dtype=torch.int64))], 3)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(layer.training and not layer._forward_hooks for layer in network.modules())


def test_dead_units_and_idle_heads_are_free() -> None:
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU()), 3, torch.Generator().manual_seed(0))
    network.grow_head(6)
    with torch.no_grad():
        network.backbone[1].bias[1] = -1e3
    batch = rows(torch.randn(50, 1, 2, 2), torch.randint(2, 4, (50,)))
    active = torch.zeros(50, 6, dtype=torch.bool)
    active[:, 2:4] = True
    found = diagonal_fisher(network, [batch], lambda _: active, "exact", torch.Generator())
    assert not found["backbone.1.weight"][1].any()
    assert not found["head.weight"][:, 1].any()
    assert not found["head.bias"][[0, 1, 4, 5]].any()
    assert found["head.bias"][2:4].min() > 0
    assert all(value.min() >= 0 for value in found.values())


def test_frozen_parameters_are_left_out() -> None:
    network, batch = softmax_regression()
    network.head.bias.requires_grad_(False)
    assert list(of(network, [batch], 5)) == ["head.weight"]


def test_no_examples_is_an_error() -> None:
    network, _ = softmax_regression()
    with pytest.raises(MethodError, match="no training examples"):
        of(network, [], 5)


def test_a_parameter_used_outside_its_layer_is_an_error() -> None:
    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x.flatten(1), self.layer.weight, self.layer.bias)

    network = Network(Outside(), 4, torch.Generator().manual_seed(0))
    network.grow_head(2)
    with pytest.raises(MethodError, match=r"backbone\.layer\.bias is used outside the layer"):
        of(network, [rows(torch.randn(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64))], 2)
