"""The importance of MAS against closed forms, against a loop over single examples, and with its wrong variants."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.learning import layer_gradients, per_example
from raycl.learning.sensitivity import output_sensitivity
from raycl.models.cnn import CNNConfig
from raycl.models.cnn import build as build_cnn
from raycl.models.mlp import MLPConfig
from raycl.models.mlp import build as build_mlp
from raycl.models.network import Network, initialize
from raycl.models.resnet import ResNet18Config, build_resnet18
from raycl.streams.task import Batch

Method = Callable[[nn.Module, Iterable[Batch], Callable[[Batch], Tensor]], dict[str, Tensor]]


def rows(x: Tensor, y: Tensor) -> Batch:
    none = torch.zeros_like(y)
    return Batch(x, x, y, none, none.bool())


def split(batch: Batch, size: int) -> list[Batch]:
    return [batch[slice(start, start + size)] for start in range(0, len(batch), size)]


def every(batch: Batch) -> Tensor:
    return torch.ones(len(batch), 5, dtype=torch.bool)


def looped(
    size: int,
    reduced: Callable[[Tensor], Tensor] = torch.abs,
    norm: Callable[[Tensor], Tensor] = torch.square,
    masked: bool = True,
) -> Method:
    """Autograd over batches of ``size``: the definition where that is 1, a mutant elsewhere."""

    def method(network: nn.Module, batches: Iterable[Batch], active: Callable[[Batch], Tensor]) -> dict[str, Tensor]:
        named = dict(network.named_parameters())
        sums = {name: torch.zeros_like(p) for name, p in named.items()}
        parts = [part for batch in batches for part in split(batch, size)]
        network.eval()
        for part in parts:
            outputs = norm(network(part.x))
            total = (outputs[active(part)] if masked else outputs).sum() / len(part)
            for name, gradient in zip(named, torch.autograd.grad(total, list(named.values())), strict=True):
                sums[name] += reduced(gradient) * len(part) / sum(map(len, parts))
        return sums

    return method


one_by_one = looped(1)


def linear() -> tuple[Network, Batch]:
    """f = W x + b on inputs of both signs."""
    generator = torch.Generator().manual_seed(0)
    network = Network(nn.Flatten(), 6, generator)
    network.grow_head(5)
    x = torch.randn(300, 1, 2, 3, generator=generator)
    return network, rows(x, torch.randint(5, (300,), generator=generator))


def check_closed_form(method: Method) -> None:
    """Omega of unit c and input d is the mean of |2 f_c x_d| where c is active, and 0 elsewhere."""
    network, batch = linear()
    active = torch.tensor([False, True, True, False, True])
    found = method(network, split(batch, 64), lambda part: active.expand(len(part), -1))
    outputs, x = 2 * network(batch.x).detach().abs() * active, batch.x.flatten(1).abs()
    torch.testing.assert_close(found["head.weight"], outputs.T @ x / len(x), rtol=1e-5, atol=0)
    torch.testing.assert_close(found["head.bias"], outputs.mean(0), rtol=1e-5, atol=0)


def test_a_linear_layer_in_closed_form() -> None:
    check_closed_form(output_sensitivity)
    check_closed_form(one_by_one)


MUTANTS: dict[str, Method] = {
    "the absolute value of a mean": looped(64),
    "squares": looped(1, torch.square),
    "all heads": looped(1, masked=False),
    "softmax": looped(1, norm=lambda logits: logits.softmax(1).square()),
    "the norm, not squared": looped(1, norm=torch.abs),
}


@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_wrong_variants_are_caught(mutant: str) -> None:
    with pytest.raises(AssertionError):
        check_closed_form(MUTANTS[mutant])


def test_examples_cancel_in_a_mean_over_the_batch() -> None:
    network, batch = linear()
    ours, mean = (method(network, [batch], every)["head.weight"].sum() for method in (output_sensitivity, looped(300)))
    assert mean < 0.5 * ours


def test_labels_play_no_part() -> None:
    network, batch = linear()
    turned = rows(batch.x, batch.y.roll(7))
    assert not torch.equal(batch.y, turned.y)
    ours, theirs = (output_sensitivity(network, split(labelled, 64), every) for labelled in (batch, turned))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


class Shared(nn.Module):
    """A convolution used twice, dilated and strided ones that are not square, and a linear layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.oblong = nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2))
        self.mixed = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.first(x)).relu())
        x = nn.functional.adaptive_avg_pool2d(self.oblong(x).relu(), (3, 1)).flatten(1)
        result: Tensor = self.mixed(self.mixed(x).tanh())
        return result


def shared(generator: torch.Generator) -> Network:
    backbone = Shared()
    initialize(backbone, generator)
    return Network(backbone, 12, generator)


NETWORKS: dict[str, tuple[int, Callable[[torch.Generator], Network]]] = {
    "mlp": (8, lambda generator: build_mlp(MLPConfig(hidden=(12, 9)), (1, 8, 8), generator)),
    "cnn": (8, lambda generator: build_cnn(CNNConfig(channels=(4, 6), hidden=9, norm="batch"), (1, 8, 8), generator)),
    "shared": (8, shared),
    "resnet18": (16, lambda generator: build_resnet18(ResNet18Config(width=2), (1, 16, 16), generator)),
}


@pytest.mark.parametrize("kept", [0, 1 << 24], ids=["patches anew", "patches kept"])
@pytest.mark.parametrize("kind", list(NETWORKS))
def test_equals_a_loop_over_single_examples(kind: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_example, "BLOCK_NUMBERS", 2000)  # so that gradients per example come in several blocks
    monkeypatch.setattr(layer_gradients, "KEPT_NUMBERS", kept)
    size, build = NETWORKS[kind]
    generator = torch.Generator().manual_seed(1)
    network = build(generator)
    network.grow_head(5)
    batch = rows(torch.randn(11, 1, size, size, generator=generator), torch.arange(11))
    network.train()(batch.x)  # running statistics that are not the initial ones
    active = torch.rand(11, 5, generator=generator) < 0.6
    expected = one_by_one(network, [batch], lambda part: active[part.y])
    found = output_sensitivity(network, split(batch, 4), lambda part: active[part.y])
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5 * float(expected[name].max()))


def test_no_examples_is_an_error() -> None:
    with pytest.raises(MethodError, match="no training examples"):
        output_sensitivity(linear()[0], [], every)
