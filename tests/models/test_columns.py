"""Columns and their laterals: the equations, sizes, where laterals go, and what earlier columns are spared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from raycl.models.cnn import CNNConfig
from raycl.models.cnn import build as build_cnn
from raycl.models.columns import Adapter, Column, ColumnStack, GatedAdapter, direct
from raycl.models.mlp import MLPConfig
from raycl.models.mlp import build as build_mlp
from raycl.models.network import Network
from raycl.models.resnet import ResNet18Config, build_resnet18

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(6, 1, 16, 16, generator=GENERATOR)
Lateral = Callable[[nn.Module, int], nn.Module]


@pytest.fixture(autouse=True)
def seeded() -> None:
    GENERATOR.manual_seed(1)


def mlp(outputs: int = 3) -> Network:
    network = build_mlp(MLPConfig(hidden=(20, 12)), (1, 16, 16), GENERATOR)
    network.grow_head(outputs)
    return network


def cnn() -> Network:
    network = build_cnn(CNNConfig(channels=(4, 6), hidden=8, norm="batch"), (1, 16, 16), GENERATOR)
    network.grow_head(3)
    return network


def resnet() -> Network:
    network = build_resnet18(ResNet18Config(width=4), (1, 16, 16), GENERATOR)
    network.grow_head(3)
    return network


def strided() -> Network:
    """A row with a stride, a large kernel, and a nested row."""
    stem = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU())
    rest = (nn.Conv2d(3, 4, 5, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = Network(nn.Sequential(stem, *rest), 4, GENERATOR)
    network.grow_head(2)
    return network


def adapters(link: nn.Module, columns: int) -> nn.Module:
    return Adapter(link, columns, None, GENERATOR)


def maps(link: nn.Module, columns: int) -> nn.Module:
    return direct(link, columns, GENERATOR)


def stack(build: Callable[[], Network], lateral: Lateral, columns: int = 3) -> ColumnStack:
    made = [Column(build(), (lambda link, k=k: lateral(link, k)) if k else None) for k in range(columns)]
    return ColumnStack(made).eval()


def numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# -- the equations ---------------------------------------------------------------------------------------------------


def activations(network: Network) -> tuple[Tensor, Tensor]:
    """What comes into the second layer and into the head of a two-layer network alone."""
    first = network.backbone[:3](IMAGES)
    return first, network.backbone[3:](first)


def expected_adapter(columns: ColumnStack) -> Tensor:
    """Equation 2 for the second of two columns."""
    (first, last), network = activations(columns[0].network), columns[1].network
    second, head = (columns[1].laterals[place] for place in ("3", "5"))

    def added(adapter: nn.Module, before: Tensor) -> Tensor:
        hidden = adapter.scale * before @ adapter.down.weight.T + adapter.down.bias
        return hidden.clamp(min=0) @ adapter.up.weight.T

    own = network.backbone[:3](IMAGES)
    own = (network.backbone[3](own) + added(second, first)).clamp(min=0)
    return network.head(own) + added(head, last)


def check_equation(columns: ColumnStack) -> None:
    with torch.no_grad():
        torch.testing.assert_close(columns(IMAGES, 1), expected_adapter(columns))


def test_adapters_are_those_of_equation_2() -> None:
    columns = stack(mlp, adapters, 2)
    for place in ("3", "5"):
        columns[1].laterals[place].scale.data.fill_(1.7)
    check_equation(columns)


class Unscaled(Adapter):
    """A mutant without the learned scalars."""

    def forward(self, tap: Tensor) -> Tensor:
        return super(Adapter, self).forward(tap)


class Linear(Adapter):
    """A mutant without the nonlinearity."""

    def forward(self, tap: Tensor) -> Tensor:
        return self.up(self.down(tap * self.scale))


class Shifted(Column):
    """A mutant whose taps are what leaves the layer."""

    def _walk(self, x: Tensor, before: dict[int, Tensor]) -> tuple[Tensor, dict[int, Tensor]]:
        features, own = super()._walk(x, before)
        return features, {place: tap + 1 for place, tap in own.items()}


@pytest.mark.parametrize("mutant", [Unscaled, Linear])
def test_other_adapters_are_caught(mutant: type[Adapter]) -> None:
    with pytest.raises(AssertionError):
        check_equation(stack(mlp, lambda link, columns: mutant(link, columns, None, GENERATOR), 2))


def test_other_activations_are_caught() -> None:
    columns = stack(mlp, adapters, 2)
    columns[0] = Shifted(columns[0].network)
    with pytest.raises(AssertionError):
        check_equation(columns)


def test_direct_laterals_are_those_of_equation_1() -> None:
    """A sum over the columns before, of which each has seen those before it."""
    columns = stack(mlp, maps)
    taps = columns[1].taps(IMAGES, columns[0].taps(IMAGES, {}))
    column = columns[2]
    network, before = column.network, taps[3].split(20, 1)
    own = network.backbone[3](network.backbone[:3](IMAGES))
    for weight, part in zip(column.laterals["3"].weight.split(20, 1), before, strict=True):
        own = own + part @ weight.T
    own = own.clamp(min=0)
    torch.testing.assert_close(columns(IMAGES, 2), network.head(own) + column.laterals["5"](taps[5]))


def test_a_gate_scales_what_each_output_is_given() -> None:
    lateral = GatedAdapter(nn.Linear(5, 4), 20, GENERATOR)
    tap = torch.rand(2, 5, generator=GENERATOR)
    expected = lateral.gate * lateral.up(lateral.down(tap).relu())
    assert torch.equal(lateral(tap), expected)
    assert torch.count_nonzero(expected)
    spatial = GatedAdapter(nn.Conv2d(5, 4, 3, padding=1), 3, GENERATOR)
    assert spatial(torch.rand(2, 5, 7, 7, generator=GENERATOR)).shape == (2, 4, 7, 7)


# -- where laterals go -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "joints"),
    [(mlp, [3, 5]), (cnn, [4, 9, 11]), (strided, [2, 6]), (resnet, [*range(3, 11), 13])],
    ids=["mlp", "cnn", "strided", "resnet"],
)
@pytest.mark.parametrize("lateral", [adapters, maps])
def test_every_layer_but_the_first_has_a_lateral(
    build: Callable[[], Network], joints: list[int], lateral: Lateral
) -> None:
    columns = stack(build, lateral)
    assert not columns[0].laterals
    assert [list(map(int, columns[k].laterals)) for k in (1, 2)] == [joints, joints]
    logits = columns(IMAGES, 2)
    assert logits.shape == (6, columns[2].network.head.outputs)
    logits.sum().backward()
    silent = [name for name, p in columns[2].named_parameters() if p.grad is None]
    assert not silent
    assert all(p.grad is None for column in columns[:2] for p in column.parameters())


@pytest.mark.parametrize("build", [mlp, cnn, strided, resnet])
@pytest.mark.parametrize("lateral", [adapters, maps])
def test_without_laterals_a_column_is_its_network(build: Callable[[], Network], lateral: Lateral) -> None:
    columns = stack(build, lateral)
    alone = columns[2].network(IMAGES)
    assert not torch.allclose(columns(IMAGES, 2), alone, atol=1e-6)
    for name, parameter in columns[2].laterals.named_parameters():
        if "down" not in name:
            parameter.data.zero_()
    assert torch.equal(columns(IMAGES, 2), alone)


def test_a_backbone_that_is_no_row_has_laterals_at_the_head_alone() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(256, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1)).relu()

    def build() -> Network:
        network = Network(Whole(), 8, GENERATOR)
        network.grow_head(2)
        return network

    columns = stack(build, adapters)
    assert list(columns[2].laterals) == ["1"]
    assert columns(IMAGES, 2).shape == (6, 2)


def test_a_linear_classifier_has_no_laterals() -> None:
    def build() -> Network:
        network = build_mlp(MLPConfig(hidden=()), (1, 16, 16), GENERATOR)
        network.grow_head(2)
        return network

    columns = stack(build, adapters)
    assert torch.equal(columns(IMAGES, 2), columns[2].network(IMAGES))


# -- size ------------------------------------------------------------------------------------------------------------


def adapter_size(inputs: int, outputs: int, columns: int, kernel: int = 1) -> int:
    width = max(8, outputs // (2 * (columns + 1)))
    return columns + columns * inputs * width + width + width * outputs * kernel


@pytest.mark.parametrize("columns", [1, 2])
def test_the_number_of_parameters(columns: int) -> None:
    """Adapters: alpha, V, c and U of each joint; maps: U alone. Convolutions have V of 1 x 1 and U of their kernel."""
    adapted, mapped = (stack(mlp, lateral)[columns].laterals for lateral in (adapters, maps))
    assert numbers(adapted) == adapter_size(20, 12, columns) + adapter_size(12, 3, columns)
    assert numbers(mapped) == columns * (20 * 12 + 12 * 3)
    convolved = stack(cnn, adapters)[columns].laterals
    sizes = adapter_size(4, 6, columns, kernel=9) + adapter_size(6 * 16, 8, columns) + adapter_size(8, 3, columns)
    assert numbers(convolved) == sizes


def test_adapters_of_wide_layers_get_narrower() -> None:
    wide = nn.Linear(10, 400)
    assert [adapters(wide, columns).down.out_features for columns in (1, 3, 9)] == [100, 50, 20]
    assert Adapter(wide, 3, 5, GENERATOR).down.out_features == 5


# -- what earlier columns are spared ---------------------------------------------------------------------------------


def runs(columns: ColumnStack, task: int) -> list[int]:
    """How often each column's first layer runs for one batch."""
    counted = [0] * len(columns)

    def count(index: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            counted[index] += 1

        return hook

    hooks = [column.network.backbone[1].register_forward_hook(count(k)) for k, column in enumerate(columns)]
    columns(IMAGES, task)
    for handle in hooks:
        handle.remove()
    return counted


def test_a_column_runs_once_and_later_ones_never() -> None:
    columns = stack(mlp, adapters, 4)
    assert runs(columns, 3) == [1, 1, 1, 1]
    assert runs(columns, 1) == [1, 1, 0, 0]


class Anew(ColumnStack):
    """A mutant: every column runs all those before it for itself."""

    def forward(self, x: Tensor, task: int) -> Tensor:
        taps: dict[int, Tensor] = {}
        for earlier in range(task):
            super().forward(x, earlier)
            taps = self.column(earlier).taps(x, taps)
        return self.column(task)(x, taps)


def test_running_columns_for_every_later_one_is_caught() -> None:
    assert runs(Anew(stack(mlp, adapters, 4)), 3) != [1, 1, 1, 1]
