"""State of a trial to bytes and back: tensors as safetensors, everything else as JSON. Loading executes no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from raycl.errors import TornFile

TENSORS = "state.safetensors"
TREE = "state.json"


def encode(state: Mapping[str, Any]) -> dict[str, bytes]:
    """Nested dicts and lists of tensors, arrays, numbers, strings, booleans and None -> files by name.

    Raises:
        TypeError: a value of another type, or a key that is neither a string nor a whole number.
    """
    tensors: dict[str, Tensor] = {}
    tree = _flatten(state, tensors)
    return {TENSORS: safetensors.torch.save(tensors), TREE: json.dumps(tree).encode()}


def decode(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The inverse of :func:`encode`.

    Raises:
        TornFile: a file is missing or cannot be read.
    """
    try:
        tensors = safetensors.torch.load(files[TENSORS])
        state = _restore(json.loads(files[TREE]), tensors)
    except (KeyError, ValueError, safetensors.SafetensorError) as error:
        raise TornFile(f"a checkpoint cannot be read: {error}; the trial restarts from the one before") from error
    assert isinstance(state, dict)
    return state


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        return {"array": _flatten(torch.from_numpy(np.ascontiguousarray(value)), tensors)}
    if isinstance(value, Mapping):
        return {"dict": [[_key(key), _flatten(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_flatten(entry, tensors) for entry in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"a checkpoint holds tensors, arrays, numbers, strings, lists and dicts (got {type(value)})")


def _key(key: object) -> str | int:
    if isinstance(key, (str, int)):
        return key
    raise TypeError(f"keys of a checkpoint are strings or whole numbers (got {key!r})")


def _restore(node: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return _restore(content, tensors).numpy()
    if kind == "dict":
        return {key: _restore(entry, tensors) for key, entry in content}
    if kind == "list":
        return [_restore(entry, tensors) for entry in content]
    return content
