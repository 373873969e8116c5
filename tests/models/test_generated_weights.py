"""Target networks as pure functions, and the generator that fills them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from raycl.catalog import catalog
from raycl.models.hypernetwork import WeightGenerator
from raycl.models.network import Network
from raycl.models.target import TargetNetwork

MODELS = {
    "mlp": ({"name": "mlp", "hidden": [12, 9]}, (1, 8, 8)),
    "mlp with batch norm": ({"name": "mlp", "hidden": [12], "norm": "batch"}, (1, 8, 8)),
    "cnn": ({"name": "cnn"}, (1, 28, 28)),
    "resnet32": ({"name": "resnet32"}, (3, 32, 32)),
}


def network(name: str) -> Network:
    options, image_shape = MODELS[name]
    model = catalog().models.get(str(options["name"]))
    built: Network = model.build(
        model.Config.model_validate(options, strict=False), image_shape, torch.Generator().manual_seed(0)
    )
    built.grow_head(3)
    return built


def flat(weights: Any) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in weights])


def target(name: str) -> TargetNetwork:
    return TargetNetwork(network(name), 3, MODELS[name][1])


def images(name: str, batch: int = 5) -> Tensor:
    return torch.randn(batch, *MODELS[name][1], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
def test_with_a_networks_own_weights_it_computes_what_the_network_computes(name: str) -> None:
    original, pure, x = network(name), target(name), images(name)
    state = pure.new_state(torch.device("cpu"))
    for mode in (True, False):
        original.train(mode)
        pure.network.train(mode)
        logits = pure.forward(flat(original.parameters()), state, x)
        assert torch.allclose(logits, original(x), atol=1e-6)
    assert all(torch.equal(state[key], value) for key, value in original.named_buffers()), "running statistics"
    assert not any(parameter.device.type == "cpu" for parameter in pure.network.parameters()), "it owns no weights"


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_many_weight_sets_at_once_equal_one_after_another(name: str) -> None:
    pure, x = target(name), images(name)
    pure.network.eval()
    weights = torch.randn(3, pure.numel, generator=torch.Generator().manual_seed(2)) / math.sqrt(pure.numel)
    states = [pure.new_state(torch.device("cpu")) for _ in range(3)]
    for number, state in enumerate(states):
        for buffer in state.values():
            buffer.add_(number)
    together = pure.forward_many(weights, states, x)
    single = torch.stack([pure.forward(own, state, x) for own, state in zip(weights, states, strict=True)])
    assert together.shape == (3, 5, 3)
    assert torch.allclose(together, single, atol=1e-5)


def test_the_weights_of_units_that_a_task_does_not_have() -> None:
    pure, x = target("mlp"), images("mlp")
    weights = torch.randn(pure.numel, generator=torch.Generator().manual_seed(2))
    changed = weights.clone()
    for part in pure.beyond(2):
        changed[part] += 1
    before, after = (pure.forward(value, {}, x) for value in (weights, changed))
    assert torch.equal(before[:, :2], after[:, :2])
    assert not bool(torch.isclose(before[:, 2], after[:, 2]).any())
    assert sum(part.stop - part.start for part in pure.beyond(2)) == 9 + 1
    assert pure.beyond(3) == []


def test_activations_are_counted_without_computing() -> None:
    """Image, flattened image, two hidden layers before and after the ReLU, logits."""
    assert target("mlp").floats_per_row == 64 + 64 + 2 * 12 + 2 * 9 + 3


SPLIT = (784 * 400, 400, 400 * 400, 400, 400 * 2, 2)
PERMUTED = (1024 * 1000, 1000, 1000 * 1000, 1000, 1000 * 10, 10)


def test_sizes_of_the_published_settings() -> None:
    """Trainable totals of the paper's configurations, task embeddings included; without heads of other tasks a
    permuted weight set needs 27 chunks where the authors' needs 28."""
    random = torch.Generator().manual_seed(0)
    split = WeightGenerator(SPLIT, 96, (10, 10), "relu", random, 42_000, 96)
    permuted = WeightGenerator(PERMUTED, 24, (25, 25), "elu", random, 78_000, 8)
    totals = [sum(parameter.numel() for parameter in generator.parameters()) for generator in (split, permuted)]
    assert (split.numel, split.num_chunks, totals[0] + 5 * 96) == (475_202, 12, 465_672)
    assert (permuted.numel, permuted.num_chunks, totals[1] + 10 * 24) == (2_036_010, 27, 2_029_939 - 8)


def test_chunks_are_laid_end_to_end_and_cut_where_the_weights_end() -> None:
    generator = WeightGenerator((10, 3), 4, (5,), "tanh", torch.Generator().manual_seed(0), 6, 2)
    embedding = torch.randn(1, 4)
    weights = generator(embedding)[0]
    theta = generator.theta
    for chunk in range(3):
        inputs = torch.cat([embedding[0], theta["chunks"][chunk]])
        hidden = torch.tanh(theta["trunk_weight.0"] @ inputs + theta["trunk_bias.0"])
        expected = theta["weight"] @ hidden + theta["bias"]
        assert torch.allclose(weights[6 * chunk : 6 * chunk + 6], expected[: 13 - 6 * chunk], atol=1e-6)
    assert weights.shape == (13,)


def test_initial_values_are_those_of_the_authors_experiments() -> None:
    random = torch.Generator().manual_seed(0)
    chunked = WeightGenerator((3000, 1000), 96, (50,), "relu", random, 1000, 96)
    assert float(chunked.weight.detach().abs().max()) == pytest.approx(math.sqrt(6 / 1050), rel=1e-2)
    assert float(chunked.chunks.detach().std()) == pytest.approx(1, rel=0.1)
    assert not bool(chunked.bias.any())
    full = WeightGenerator((3000, 1000), 96, (50,), "relu", random)
    for rows, fan_out in ((full.weight[:3000], 3000), (full.weight[3000:], 1000)):
        assert float(rows.detach().abs().max()) == pytest.approx(math.sqrt(6 / (50 + fan_out)), rel=1e-2)
    assert full.num_chunks == 1


def test_a_chunk_larger_than_the_target_is_cut_to_it() -> None:
    assert WeightGenerator((50,), 4, (5,), "relu", torch.Generator(), 42_000, 2).chunk_size == 50
