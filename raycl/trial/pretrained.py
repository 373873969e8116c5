"""Binds a sweep to the pretrained weights that it names: by their content, before anything runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from raycl.errors import DataError
from raycl.models.weights import Weights, backbone, load_weights, start_from, weights_hash
from raycl.spec.options import StreamConfig
from raycl.spec.setting import Registries, Setting
from raycl.spec.sweep import SweepSpec
from raycl.streams.contents import CONTENTS, seen
from raycl.streams.source import contents_of, stream_outline

log = logging.getLogger(__name__)


def pinned(sweep: SweepSpec, data_root: Path | None) -> SweepSpec:
    """The sweep with the hash of every file of weights, so that another file makes other trials, and another sweep.

    Raises:
        UnknownName: no such weights.
        DataError: a file is missing, damaged, not the one that a ``weights_hash`` asks for, does not fit its model, or
            has learned from the data that a search is scored on.
    """
    loaded: dict[tuple[str, str | None], Weights] = {}

    def load(name: str, expected: str | None) -> Weights:
        if (name, expected) not in loaded:
            loaded[name, expected] = load_weights(name, data_root, expected)
        return loaded[name, expected]

    for resolved in sweep.corners():
        encode, model = resolved.stream.encode, resolved.model
        if encode is not None:
            backbone(load(encode.weights, encode.weights_hash), encode.weights, models=sweep.catalog.models)
        if model.weights is not None:
            _check_fit(sweep.catalog, resolved, load(model.weights, model.weights_hash))
    if not sweep.pins:  # a sweep that is pinned already was looked at then
        _check_unseen(sweep, {name: weights.origin for (name, _), weights in loaded.items()}, data_root)
    return sweep.pinned({name: weights_hash(name, data_root) for name, _ in loaded})


def _check_unseen(sweep: SweepSpec, origins: Mapping[str, Mapping[str, Any]], data_root: Path | None) -> None:
    """Weights must not have learned from the data that a search is scored on; without a search it is told.

    Raises:
        DataError: they have, and nothing beside them allows it.
    """
    searched = (sweep.search or sweep.table) is not None and any(
        entry.space for entry in sweep.entries if not entry.barred
    )
    told: set[str] = set()
    for resolved in sweep.corners():
        for place, block in (("model", resolved.model), ("stream.encode", resolved.stream.encode)):
            if block is None or block.weights is None:
                continue
            known = _seen(origins[block.weights], resolved.stream, sweep, data_root)
            rule = f"{place}.weights: {block.weights!r} has learned from {known}, which this stream is made of"
            if known and searched and not block.allow_seen:
                raise DataError(
                    f"{rule}, so that what a search measures is not new to it; take weights learned from other data, "
                    f"or say {place}.allow_seen: true"
                )
            if known and rule not in told:
                told.add(rule)
                log.warning("%s; every result says so", rule)


def _seen(origin: Mapping[str, Any], stream: StreamConfig, sweep: SweepSpec, data_root: Path | None) -> str:
    """What of a stream some weights have learned from, under the first seed where they have."""
    if not origin.keys() & {CONTENTS, "stream", "start"}:
        return ""  # made elsewhere: nothing is known, and no data need be read
    found = (seen(origin, contents_of(sweep.catalog, stream, seed, data_root)) for seed in _seeds(sweep))
    return next((known for known in found if known), "")


def _seeds(sweep: SweepSpec) -> list[int]:
    """Every seed that decides what classes the stream of a trial of the sweep holds."""
    search, final = sweep.search, sweep.final
    runs = [*(search.runs if search else ()), *(final.runs if final else ())]
    runs += search.finalists.runs if search and search.finalists else ()
    runs += sweep.table.runs if sweep.table else ()
    return list(dict.fromkeys(run.class_order for run in runs)) or [0]


def _check_fit(catalog: Registries, resolved: Setting, weights: Weights) -> None:
    """Start the model from the weights once, on its stream's images where their shape is known."""
    outline, model = stream_outline(catalog, resolved.stream), resolved.model
    shape = weights.image_shape if outline is None else outline.image_shape
    network = catalog.models.get(model.name).build(model, shape, torch.Generator().manual_seed(0))
    start_from(network, weights, str(model.weights))
