"""CNN and ResNets: shapes, sizes, seeds, growth, and running statistics that extra passes leave alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from raycl.errors import SpecError
from raycl.models.network import Network, frozen_statistics
from raycl.models.registry import MODELS

NORMS = ("batch", "group", "none")


def built(name: str, shape: tuple[int, int, int], seed: int = 0, **options: Any) -> Network:
    model = MODELS.get(name)
    config = model.Config.model_validate_json(json.dumps({"name": name, **options}))
    return model.build(config, shape, torch.Generator().manual_seed(seed))


def size(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_cnn_takes_images_of_eight_pixels_and_more(shape: tuple[int, int, int], norm: str) -> None:
    network = built("cnn", shape, norm=norm)
    network.grow_head(4)
    assert network(torch.rand(3, *shape)).shape == (3, 4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["resnet18", "resnet32"])
def test_resnets_take_small_images(name: str, norm: str) -> None:
    network = built(name, (3, 32, 32), width=4, norm=norm)
    network.grow_head(7)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_resnets_have_the_published_numbers_of_parameters() -> None:
    """ResNet-32: 0.46 M (He et al. 2016, table 6). ResNet-18: 11.17 M with a 3 x 3 first layer."""
    small, large = built("resnet32", (3, 32, 32)), built("resnet18", (3, 32, 32))
    small.grow_head(10)
    large.grow_head(10)
    assert size(small) == 464_154
    assert size(large) == 11_173_962


def test_networks_of_the_hypernetwork_paper_have_its_numbers_of_parameters() -> None:
    """Of the authors' own classes with the 60 output units of CIFAR-10 and five slices of CIFAR-100."""
    for name, options, published in [("resnet32", {"biases": True}, 468_540), ("zenkenet", {}, 1_276_508)]:
        network = built(name, (3, 32, 32), **options)
        network.grow_head(60)
        assert size(network) == published


@pytest.mark.parametrize("shape", [(1, 10, 10), (1, 28, 28), (3, 32, 32)])
def test_zenkenet_drops_channels_and_units_in_training_alone(shape: tuple[int, int, int]) -> None:
    network = built("zenkenet", shape, dropout=0.25)
    network.grow_head(3)
    kinds = [(type(layer), layer.p) for layer in network.backbone if "Dropout" in type(layer).__name__]
    assert kinds == [(nn.Dropout2d, 0.25), (nn.Dropout2d, 0.25), (nn.Dropout, 0.5)]
    x = torch.rand(2, *shape)
    assert network.eval()(x).shape == (2, 3)
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize(("name", "places"), [("mlp", [nn.Dropout] * 2), ("cnn", [nn.Dropout] * 3)])
def test_dropout_stands_after_every_layer(name: str, places: list[type[nn.Module]]) -> None:
    network = built(name, (1, 16, 16), dropout=0.4)
    assert [type(layer) for layer in network.backbone if "Dropout" in type(layer).__name__] == places
    assert type(network.backbone[-1]) is nn.Dropout
    assert not any("Dropout" in type(layer).__name__ for layer in built(name, (1, 16, 16)).backbone)


def test_padded_shortcuts_have_no_parameters_and_keep_the_image() -> None:
    block = built("resnet32", (3, 32, 32), width=4).backbone[3 + 5]
    assert not list(block.shortcut.parameters())
    x = torch.rand(2, 4, 8, 8)
    y = block.shortcut(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


@pytest.mark.parametrize("name", ["cnn", "resnet18", "resnet32"])
def test_the_generator_decides_the_weights(name: str) -> None:
    options = {} if name == "cnn" else {"width": 4}
    one, same, other = (built(name, (3, 32, 32), seed, **options) for seed in (0, 0, 1))
    torch.manual_seed(1)  # the global generator has no say
    for network in (one, same, other):
        network.grow_head(2)
    pairs = zip(one.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)
    assert not torch.equal(one.backbone[0].weight, other.backbone[0].weight)


def test_growth_keeps_what_was_learned() -> None:
    network = built("cnn", (1, 8, 8))
    network.grow_head(2)
    before = network.head.weight.detach().clone()
    x = torch.rand(5, 1, 8, 8)
    logits = network(x)
    network.grow_head(4)
    assert torch.equal(network.head.weight[:2], before)
    torch.testing.assert_close(network(x)[:, :2], logits)


@pytest.mark.parametrize("name", ["cnn", "resnet32"])
def test_frozen_statistics_stay(name: str) -> None:
    network = built(name, (3, 32, 32), norm="batch").train()
    buffers = {key: value.clone() for key, value in network.named_buffers()}
    with frozen_statistics(network):
        network(torch.rand(4, 3, 32, 32))
    assert all(torch.equal(value, buffers[key]) for key, value in network.named_buffers())
    assert network.backbone[1].training
    network.backbone[1].eval()
    with frozen_statistics(network):
        assert not network.training
    assert network.training
    assert not network.backbone[1].training, "what was frozen before stays so"
    network.train()
    network(torch.rand(4, 3, 32, 32))
    assert any(not torch.equal(value, buffers[key]) for key, value in network.named_buffers())


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(SpecError, match=r"model\.channels: images of 8 x 8 .*fewer channels"):
        built("cnn", (1, 8, 8), channels=[8, 8, 8, 8])
    with pytest.raises(SpecError, match=r"at least 16 x 16 .*resnet32 on 8 x 8"):
        built("resnet32", (1, 8, 8))
    with pytest.raises(SpecError, match=r"at least 10 x 10 .*zenkenet on 9 x 12"):
        built("zenkenet", (1, 9, 12))


@pytest.mark.parametrize(
    ("options", "scaled"),
    [
        ({"name": "mlp", "hidden": [400, 3]}, {"hidden": (100, 1)}),
        ({"name": "cnn", "channels": [8, 16]}, {"channels": (2, 4), "hidden": 32}),
        ({"name": "resnet18"}, {"width": 16}),
        ({"name": "resnet32", "width": 2}, {"width": 1}),
    ],
)
def test_every_width_is_scaled_and_nothing_else(options: dict[str, Any], scaled: dict[str, Any]) -> None:
    config = MODELS.get(options["name"]).Config.model_validate_json(json.dumps(options))
    assert config.scaled(0.25 if options["name"] != "resnet32" else 0.1) == config.model_copy(update=scaled)
    assert config.scaled(1) == config


def test_a_model_of_fixed_width_is_not_scaled() -> None:
    for options in ({"name": "resnet18_imagenet"}, {"name": "resnet18", "weights": "imagenet"}):
        config = MODELS.get(options["name"]).Config.model_construct(**options)
        with pytest.raises(SpecError, match="another width"):
            config.scaled(0.5)
