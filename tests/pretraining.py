"""Small files of pretrained weights for images of digits."""

from __future__ import annotations

from pathlib import Path

import torch

from raycl.models.registry import MODELS
from raycl.models.weights import Weights, write_weights

MODEL = {"name": "mlp", "hidden": [12]}


def made(seed: int = 0) -> Weights:
    """The backbone of a small MLP over digits, drawn from ``seed``."""
    model = MODELS.get("mlp")
    config = model.Config.model_validate_json('{"name": "mlp", "hidden": [12]}')
    network = model.build(config, (1, 8, 8), torch.Generator().manual_seed(seed))
    return Weights(MODEL, (1, 8, 8), (0.25,), (0.5,), network.backbone.state_dict(), {"data": "none"})


def weights_file(root: Path, name: str = "mlp.safetensors", seed: int = 0) -> str:
    """Write such a file below a data root; returns the name under which a sweep knows it."""
    write_weights(root / name, made(seed))
    return name
