"""An MLP without hidden layers is a linear classifier."""

from __future__ import annotations

import torch

from raycl.models.mlp import MLP


def test_no_hidden_layer_is_a_linear_classifier() -> None:
    config = MLP.Config.model_validate_json('{"name": "mlp", "hidden": []}')
    network = MLP.build(config, (2, 3, 3), torch.Generator().manual_seed(0))
    network.grow_head(4)
    x = torch.rand(5, 2, 3, 3)
    assert torch.allclose(network(x), x.flatten(1) @ network.head.weight.T + network.head.bias, atol=1e-6)
    assert sum(parameter.numel() for parameter in network.parameters()) == 4 * 18 + 4
