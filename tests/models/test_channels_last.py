"""Image networks run channels last on a CPU: the same numbers up to rounding, and every layer keeps the format."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raycl.catalog import catalog
from raycl.models import cnn
from raycl.models.network import Network

MODELS = {"cnn": {}, "resnet18": {"width": 4}, "resnet32": {"width": 4}, "resnet18_imagenet": {}}


def made(name: str) -> tuple[Network, Tensor]:
    generator, model = torch.Generator().manual_seed(0), catalog().models.get(name)
    network = model.build(model.Config(name=name, **MODELS[name]), (3, 32, 32), generator)
    network.grow_head(3)
    return network, torch.rand(4, 3, 32, 32, generator=generator)


def strays(network: Network, x: Tensor) -> int:
    """Convolutions whose input or output is not channels last."""
    count = 0

    def look(_: nn.Module, __: object, output: Tensor) -> None:
        nonlocal count
        count += not output.is_contiguous(memory_format=torch.channels_last)

    handles = [layer.register_forward_hook(look) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    network(x)
    for handle in handles:
        handle.remove()
    return count


@pytest.mark.parametrize("name", list(MODELS))
def test_every_convolution_keeps_the_format(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = made(name)
    assert strays(network.eval(), x) == 0
    monkeypatch.setattr(cnn.FirstConvolution, "forward", nn.Conv2d.forward)
    assert strays(network, x) > 0, "the mutant: images as they come"


@pytest.mark.parametrize("name", list(MODELS))
def test_only_rounding_moves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = made(name)
    network.double()

    def gradients() -> list[Tensor]:
        return list(torch.autograd.grad(network(x.double()).square().sum(), list(network.parameters())))

    found = gradients()
    monkeypatch.setattr(cnn.FirstConvolution, "forward", nn.Conv2d.forward)
    for one, other in zip(found, gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


def test_models_with_convolutions_are_of_a_later_revision() -> None:
    later = {name for name in catalog().models.names() if catalog().models.get(name).revision == 2}
    assert later == set(MODELS)
