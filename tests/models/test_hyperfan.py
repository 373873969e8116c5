"""Hypernetworks whose generated weights start as those of a network of its own would (Chang et al. 2020)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from raycl.catalog import catalog
from raycl.models.hypernetwork import WeightGenerator
from raycl.models.target import TargetNetwork
from raycl.models.vae import GeneratedDecoder

DRAWS = 100


def target(hidden: tuple[int, ...] = (60, 40), norm: str = "none") -> TargetNetwork:
    model = catalog().models.get("mlp")
    config = model.Config(hidden=hidden, norm=norm)
    return TargetNetwork(model.build(config, (1, 8, 8), torch.Generator()), 10, (1, 8, 8))


def generated(made: TargetNetwork, std: float, variances: bool = True) -> list[dict[str, Tensor]]:
    """The target's weights under many starts of the generator, one embedding each; a wide one varies less."""
    found = []
    for seed in range(DRAWS):
        random = torch.Generator().manual_seed(seed)
        sizes = [shape.numel() for shape in made.shapes.values()]
        generator = WeightGenerator(
            *(sizes, 64, (200, 200), "relu", random, None, 0, std, 1.0),
            variances=made.variances if variances else None,
        )
        embedding = std * torch.randn(1, 64, generator=random)
        with torch.no_grad():
            found.append({name: value[0] for name, value in made.split(generator(embedding)).items()})
    return found


@pytest.mark.parametrize("std", [1.0, 0.2])
def test_each_layers_variance_is_that_of_a_direct_start(std: float) -> None:
    made = target()
    draws = generated(made, std)
    for (name, shape), wanted in zip(made.shapes.items(), made.variances or [], strict=True):
        values = torch.stack([draw[name] for draw in draws])
        if name.endswith("bias"):
            assert not values.any()
            continue
        fan_in = shape[1:].numel()
        assert wanted == pytest.approx((1 if name.startswith("head") else 2) / fan_in)
        assert float(values.square().mean()) == pytest.approx(wanted, rel=0.1)


def test_activations_keep_their_size_through_the_target() -> None:
    """From the first hidden layer to the last one, at most by a factor of two; not so from Xavier's start."""
    made = target((60, 60, 60, 60))
    x = torch.randn(200, 1, 8, 8)

    def growth(variances: bool) -> float:
        ratios = []
        for weights in generated(made, 1.0, variances)[:30]:
            passed, sizes = x.flatten(1), []
            for layer in (1, 3, 5, 7):
                passed = torch.relu(passed @ weights[f"backbone.{layer}.weight"].T + weights[f"backbone.{layer}.bias"])
                sizes.append(float(passed.square().mean()))
            ratios.append(math.log(sizes[-1] / sizes[0]))
        return math.exp(sum(ratios) / len(ratios))

    assert 0.5 < growth(True) < 2
    assert not 0.5 < growth(False) < 2


def test_a_row_that_makes_weights_of_several_tensors_has_their_mean() -> None:
    """Chunks of 4 over tensors of 6, 2 and 3 numbers: column j has the tensors of j, j + 4 and j + 8."""
    sizes, variances = [6, 2, 3], [0.6, 0.0, 0.3]
    rows = []
    for seed in range(400):
        random = torch.Generator().manual_seed(seed)
        made = WeightGenerator(sizes, 4, (), "relu", random, 4, 4, variances=variances)
        with torch.no_grad():
            rows.append(made(torch.randn(3, 4, generator=random)).square().mean(0))
    found = torch.stack(rows).mean(0)
    expected = [(0.6 + 0.6 + 0.3) / 3, (0.6 + 0.6 + 0.3) / 3, (0.6 + 0.0 + 0.3) / 3, (0.6 + 0.0) / 2]
    for column, wanted in enumerate(expected):
        assert found[column::4].mean() == pytest.approx(wanted, rel=0.15)


def test_norms_have_scales_that_are_no_draw() -> None:
    assert target(norm="batch").variances is None


def test_decoders_start_as_perceptrons() -> None:
    decoder = GeneratedDecoder((1, 4, 4), (20, 30), 10)
    assert decoder.variances == pytest.approx([2 / 10, 0, 2 / 20, 0, 1 / 30, 0])
    assert len(decoder.variances) == len(decoder.sizes)


def test_without_it_the_start_is_as_before() -> None:
    """Deviations of 1 draw the very same numbers."""
    made = target()
    sizes = [shape.numel() for shape in made.shapes.values()]
    plain, told = (
        WeightGenerator(sizes, 16, (30,), "relu", torch.Generator().manual_seed(3), 500, 8, *rest)
        for rest in ((), (1.0, 1.0, None))
    )
    assert all(torch.equal(left, right) for left, right in zip(plain.parameters(), told.parameters(), strict=True))
