"""The trainer's optimisers: built from what a strategy declares trainable, fused, reset or extended between tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raycl.spec.options import TrainingConfig
from raycl.strategies.base import Trainable


class OptimizerSet:
    """Torch optimisers by name.

    Args:
        training: settings of every optimiser that does not bring its own.
    """

    def __init__(self, training: TrainingConfig) -> None:
        self._training = training
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        self._settings: dict[str, TrainingConfig] = {}
        self._parameters: list[nn.Parameter] = []

    def build(self, trainable: Mapping[str, Trainable], keep_state: bool = False) -> None:
        """Build all optimisers anew; with ``keep_state`` moments move over, padded with zeros for added rows."""
        before = self._optimizers
        self._settings = {name: entry.training or self._training for name, entry in trainable.items()}
        self._optimizers = {
            name: _optimizer(entry, self._settings[name]) for name, entry in trainable.items() if _parameters(entry)
        }
        groups = (group for optimizer in self._optimizers.values() for group in optimizer.param_groups)
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        if keep_state:
            for name in self._optimizers.keys() & before.keys():
                _move_state(before[name], self._optimizers[name])

    def zero_grad(self) -> None:
        for parameter in self._parameters:  # torch's own loop costs a small network's update several times as much
            parameter.grad = None

    def step(self, *names: str) -> None:
        """Clip the gradient where asked, then update."""
        for name in names or self._optimizers:
            optimizer, limit = self._optimizers[name], self._settings[name].gradient_clip
            if limit:
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                nn.utils.clip_grad_norm_(parameters, limit)
            optimizer.step()

    def __getitem__(self, name: str) -> torch.optim.Optimizer:
        return self._optimizers[name]

    def scale_learning_rate(self, factor: float) -> None:
        """Set every learning rate to its configured value times ``factor``."""
        for optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor

    def parameters(self) -> list[nn.Parameter]:
        """All parameters in the optimisers."""
        return self._parameters

    def state_dict(self) -> dict[str, Any]:
        """Moments of each optimiser, by the parameters' order."""
        return {name: optimizer.state_dict()["state"] for name, optimizer in self._optimizers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore moments into optimisers built over the same parameters."""
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict({"state": state[name], "param_groups": optimizer.state_dict()["param_groups"]})


def _parameters(trainable: Trainable) -> bool:
    return any(group["params"] for group in trainable.groups)


def _optimizer(trainable: Trainable, training: TrainingConfig) -> torch.optim.Optimizer:
    rate = training.learning_rate
    groups = []
    for group in trainable.groups:
        options = {key: value for key, value in group.items() if key != "scale"}
        base = rate * group.get("scale", 1.0)
        groups.append({**options, "lr": base, "base_lr": base})
    decay, name = training.weight_decay, training.optimizer
    if name == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=training.momentum, weight_decay=decay, fused=True)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=rate, momentum=training.momentum, weight_decay=decay)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adagrad": torch.optim.Adagrad}
    kind: Callable[..., torch.optim.Optimizer] = kinds[name]
    return kind(groups, lr=rate, weight_decay=decay, fused=True)


def _move_state(before: torch.optim.Optimizer, after: torch.optim.Optimizer) -> None:
    """Carry moments over. A parameter that has grown is a new one; in order, it takes the place of one that is gone."""
    old, new = ([p for group in each.param_groups for p in group["params"]] for each in (before, after))
    stayed = {id(parameter) for parameter in old} & {id(parameter) for parameter in new}
    gone, come = ([p for p in each if id(p) not in stayed] for each in (old, new))
    pairs = [(parameter, parameter) for parameter in new if id(parameter) in stayed]
    for source, target in [*pairs, *zip(gone, come, strict=False)]:
        state = before.state.get(source)
        grown = source.dim() > 0 and source.shape[1:] == target.shape[1:] and len(source) <= len(target)
        if state and (grown or source.shape == target.shape):
            after.state[target] = {key: _padded(value, source, target) for key, value in state.items()}


def _padded(value: Any, source: Tensor, target: Tensor) -> Any:
    if not isinstance(value, Tensor) or value.shape != source.shape or source.shape == target.shape:
        return value
    padded = torch.zeros_like(target)
    padded[: len(source)] = value
    return padded
