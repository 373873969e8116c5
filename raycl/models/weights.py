"""Pretrained backbones: files of ours, and sets that others publish. Loading executes no code.

A file of ours is safetensors: the backbone's state by name, and in its metadata, under ``raycl``, one JSON object with
the model's options, the shape and normalisation of the images it was trained on, where it comes from, and a digest of
its tensors. Weights are named by the SHA-256 of the whole file, whatever the file is called.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from raycl.addresses import DOWNLOAD_VARIABLE, downloads_allowed, expanded
from raycl.errors import DataError, UnknownName, nearest
from raycl.models.network import Network
from raycl.models.registry import MODELS
from raycl.registry import Registry
from raycl.spec.setting import Names, checked_block

WEIGHTS_FORMAT = 1
WEIGHTS_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Weights:
    """A pretrained backbone.

    Attributes:
        model: name and options of its architecture.
        image_shape: channels, height, width of the images it was trained on.
        mean, std: per channel, of pixels in [0, 1]: it was trained on ``(pixel - mean) / std``.
        tensors: its state by name, without the head.
        origin: where it comes from, as plain data: stream, strategy, trial, seed.
    """

    model: Mapping[str, Any]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tensors: Mapping[str, Tensor]
    origin: Mapping[str, Any]


class WeightSet(Protocol):
    """Published weights that a sweep may name; installed packages add theirs.

    Attributes:
        about: what they are, for messages.
        file: where they lie, relative to the data root.
        features: width of the backbone's output.
    """

    about: str
    file: str
    features: int

    def read(self, file: Path) -> Weights: ...

    def download(self, file: Path) -> None: ...


WEIGHTS: Registry[WeightSet] = Registry(
    "weights", "raycl.weights", {"imagenet": "raycl.models.torchvision_weights:IMAGENET"}
)


def check_name(name: str) -> None:
    """Accept a registered name or the path of a file of ours, without looking for the file.

    Raises:
        UnknownName: it is neither.
    """
    if name not in WEIGHTS and not name.endswith(WEIGHTS_SUFFIX):
        known = ", ".join(WEIGHTS.names())
        raise UnknownName(
            f"unknown weights {name!r}{nearest(name, WEIGHTS.names())} (known: {known}, or the path of a "
            f"{WEIGHTS_SUFFIX} file of `raycl export` below the data root)"
        )


def find_weights(name: str, data_root: Path | None) -> Path:
    """The file that holds the weights ``name``, downloaded where that is allowed.

    Raises:
        UnknownName: no such name, and no path of a file of ours.
        DataError: the file is missing; the message says where it must lie.
    """
    check_name(name)
    data_root = data_root and expanded(data_root)
    known = WEIGHTS.get(name) if name in WEIGHTS else None
    if data_root is None and not Path(name).is_absolute():
        raise DataError(f"weights {name!r} lie below a data root (got none); pass --data-root or set RAYCL_DATA")
    file = (data_root or Path()) / (known.file if known else name)
    if file.is_file():
        return file
    if known is None:
        raise DataError(
            f"weights {name!r} were not found (looked for {file}); `raycl export` makes such a file, and a path is "
            "taken from the data root"
        )
    if not downloads_allowed():
        raise DataError(
            f"weights {name!r} ({known.about}) were not found (looked for {file}); put that file there, or set "
            f"{DOWNLOAD_VARIABLE}=1 to download it"
        )
    known.download(file)
    return file


def weights_hash(name: str, data_root: Path | None) -> str:
    """The SHA-256 of the file that holds the weights ``name``.

    Raises:
        DataError: it is missing.
    """
    with find_weights(name, data_root).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_weights(name: str, data_root: Path | None, expected: str | None = None) -> Weights:
    """Read pretrained weights.

    Args:
        name: a registered name, or the path of a file of ours, relative to the data root.
        expected: the hash that the file must have.

    Raises:
        DataError: the file is missing, damaged, of another kind, or not the one expected.
    """
    file = find_weights(name, data_root)
    found = weights_hash(name, data_root) if expected else None
    if found != expected:
        raise DataError(
            f"weights {name!r}: {file} must be the file with which this work began (SHA-256 {expected}, got {found}); "
            "put that file back, or run into another results folder"
        )
    return WEIGHTS.get(name).read(file) if name in WEIGHTS else read_weights(file)


def read_weights(file: Path) -> Weights:
    """Read a file of :func:`write_weights`.

    Raises:
        DataError: it is damaged, or was not made by raycl.
    """
    try:
        with safetensors.safe_open(str(file), framework="pt") as opened:
            head = json.loads((opened.metadata() or {})["raycl"])
        tensors = safetensors.torch.load_file(file)
        if head["format"] != WEIGHTS_FORMAT:
            raise DataError(
                f"{file}: format {head['format']}, this raycl reads {WEIGHTS_FORMAT}; export the weights anew"
            )
        if head["tensors"] != _digest(tensors):
            raise ValueError("its tensors are not those that were written")
        shape, mean, std = (tuple(head[key]) for key in ("image_shape", "mean", "std"))
        return Weights(head["model"], shape, mean, std, tensors, head["origin"])
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{file}: not a complete weights file of raycl ({reason}); export the weights anew") from error


def write_weights(file: Path, weights: Weights) -> None:
    """Write weights beside the final place and move them there, so that nobody sees half a file."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.tensors.items()}
    head = {
        "format": WEIGHTS_FORMAT,
        "model": dict(weights.model),
        "image_shape": weights.image_shape,
        "mean": weights.mean,
        "std": weights.std,
        "origin": dict(weights.origin),
        "tensors": _digest(tensors),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}-{uuid.uuid4().hex[:8]}")
    try:
        safetensors.torch.save_file(tensors, aside, metadata={"raycl": json.dumps(head, sort_keys=True)})
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def backbone(weights: Weights, name: str, size: tuple[int, int] | None = None, models: Names = MODELS) -> nn.Module:
    """The pretrained backbone itself, on its own model: float ``[batch, channels, *size]`` -> ``[batch, features]``.

    Args:
        name: of the weights, for messages.
        size: height and width of its images; default: of those it was trained on.
        models: where their model is registered.

    Raises:
        DataError: this installation does not know the model, or the tensors do not fit it.
    """
    try:
        model = models.get(str(weights.model.get("name")))
        config = checked_block(model.Config, weights.model)
    except (UnknownName, ValueError) as error:
        told = " ".join(str(error).split())
        raise DataError(f"weights {name!r} are of a model that this installation does not have ({told})") from error
    shape = (weights.image_shape[0], *(size or weights.image_shape[1:]))
    network: Network = model.build(config, shape, torch.Generator().manual_seed(0))
    return start_from(network, weights, name).backbone


def start_from(network: Network, weights: Weights, name: str) -> Network:
    """Give the backbone of ``network`` the pretrained state; its head stays as it is. Returns the network.

    Args:
        name: of the weights, for messages.

    Raises:
        DataError: tensors are missing, surplus or of another shape; the message names them.
    """
    own, given = network.backbone.state_dict(), weights.tensors
    common = sorted(own.keys() & given.keys())
    shapes = [f"{key} {list(given[key].shape)} for {list(own[key].shape)}" for key in common]
    wrong = {
        "missing": sorted(own.keys() - given.keys()),
        "surplus": sorted(given.keys() - own.keys()),
        "of another shape": [
            text for key, text in zip(common, shapes, strict=True) if given[key].shape != own[key].shape
        ],
    }
    told = [f"{kind}: {_some(keys)}" for kind, keys in wrong.items() if keys]
    if told:
        made = ", ".join(f"{key} {value}" for key, value in weights.model.items())
        raise DataError(
            f"weights {name!r} must hold every tensor of the model's backbone and no others ({'; '.join(told)}); "
            f"they are of the model {made}, on images {' x '.join(map(str, weights.image_shape))}"
        )
    network.backbone.load_state_dict(dict(given))
    return network


def _some(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
