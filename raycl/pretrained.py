"""Binds a sweep to the pretrained weights that it names: by their content, before anything runs."""

from __future__ import annotations

from pathlib import Path

import torch

from raycl.models.registry import MODELS
from raycl.models.weights import Weights, backbone, load_weights, start_from, weights_hash
from raycl.spec.blocks import Resolved
from raycl.spec.sweep import SweepSpec
from raycl.streams.source import stream_outline


def pinned(sweep: SweepSpec, data_root: Path | None) -> SweepSpec:
    """The sweep with the hash of every file of weights, so that another file makes other trials, and another sweep.

    Raises:
        UnknownName: no such weights.
        DataError: a file is missing, damaged, not the one that a ``weights_hash`` asks for, or does not fit its model.
    """
    loaded: dict[tuple[str, str | None], Weights] = {}

    def load(name: str, expected: str | None) -> Weights:
        if (name, expected) not in loaded:
            loaded[name, expected] = load_weights(name, data_root, expected)
        return loaded[name, expected]

    for resolved in sweep.corners():
        encode, model = resolved.stream.encode, resolved.model
        if encode is not None:
            backbone(load(encode.weights, encode.weights_hash), encode.weights)
        if model.weights is not None:
            _check_fit(resolved, load(model.weights, model.weights_hash))
    return sweep.pinned({name: weights_hash(name, data_root) for name, _ in loaded})


def _check_fit(resolved: Resolved, weights: Weights) -> None:
    """Start the model from the weights once, on its stream's images where their shape is known."""
    outline, model = stream_outline(resolved.stream.model_dump(mode="json")), resolved.model
    shape = weights.image_shape if outline is None else outline.image_shape
    network = MODELS.get(model.name).build(model, shape, torch.Generator().manual_seed(0))
    start_from(network, weights, str(model.weights))
