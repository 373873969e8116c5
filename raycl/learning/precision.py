"""Networks that compute in bfloat16: ``training.precision: bf16``.

Weights, gradients, optimiser state and whatever is kept stay float32. Inside :class:`Bfloat16` torch's autocast gives
matrix products and convolutions their inputs in bfloat16, forward and backward; what leaves it is float32 again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")


class Bfloat16:
    """Wraps functions over networks, so that these compute in bfloat16 while they run.

    Args:
        device: where the networks live.
    """

    def __init__(self, device: torch.device) -> None:
        self._kind = device.type

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function; tensors that it returns, alone or by name, are float32."""

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            # without the cache of cast weights: what a pass without gradients leaves in it must serve no other
            with torch.autocast(self._kind, torch.bfloat16, cache_enabled=False):
                found: R = _float32(function(*args, **kwargs))
            return found

        return run

    @staticmethod
    def widen(module: nn.Module) -> None:
        """Let what a module puts out be float32: losses are taken of exact logits, and memories keep them."""
        module.register_forward_hook(_widened)


def exactly(device: torch.device) -> AbstractContextManager[object]:
    """For what has to be float32 wherever it stands, as weights that are generated."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _widened(module: nn.Module, inputs: object, output: Any) -> Any:
    return _float32(output)


def _float32(found: Any) -> Any:
    if isinstance(found, Tensor):
        return found.float() if found.dtype == torch.bfloat16 else found
    if isinstance(found, Mapping):
        return {name: _float32(value) for name, value in found.items()}
    return found
