"""Weights that tasks own one by one, and entries of parameters that must not move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raycl.errors import MethodError
from raycl.models.network import GrowingHead

MAX_TASKS = 255
"""Owners are kept as uint8, of which 0 means free."""


class Ownership:
    """For each entry of each weight tensor the task that owns it: uint8, 0 is free, ``t + 1`` is task t.

    Args:
        weights: the tensors to be owned, by name.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.owner = {name: torch.zeros_like(weight, dtype=torch.uint8) for name, weight in weights.items()}

    def claim(self, task: int) -> None:
        """Give all free entries to the task.

        Raises:
            MethodError: there are more tasks than owners can be told apart.
        """
        if task >= MAX_TASKS:
            raise MethodError(f"weights can be owned by at most {MAX_TASKS} tasks (got task {task}); use fewer tasks")
        for owner in self.owner.values():
            owner.masked_fill_(owner == 0, task + 1)

    def owned(self, name: str, task: int) -> Tensor:
        """bool, in the weight's shape: entries of this task."""
        return self.owner[name] == task + 1

    @torch.no_grad()
    def prune(self, weights: Mapping[str, Tensor], task: int, fraction: float) -> None:
        """In each tensor free the ``fraction`` of the task's own entries that is smallest in size, and set it to 0.

        The ranking is within the layer and within the task: a ranking over all entries would free other tasks' weights.
        """
        for name, owner in self.owner.items():
            weight = weights[name]
            own = self.owned(name, task).flatten().nonzero().flatten()
            order = weight.flatten()[own].abs().argsort(stable=True)
            freed = own[order[: round(fraction * len(own))]]
            owner.view(-1)[freed] = 0
            weight.view(-1)[freed] = 0

    def visible(self, weights: Mapping[str, Tensor], task: int) -> dict[str, Tensor]:
        """New tensors in which entries that are free or belong to later tasks are 0; ``weights`` stay as they are."""
        return {
            name: torch.where((owner > 0) & (owner <= task + 1), weights[name], 0.0)
            for name, owner in self.owner.items()
        }

    def free(self) -> dict[str, float]:
        """The share of each tensor's entries that no task owns."""
        return {name: float((owner == 0).float().mean()) for name, owner in self.owner.items()}

    def free_share(self) -> float:
        """The share of all entries that no task owns."""
        entries = sum(owner.numel() for owner in self.owner.values())
        return sum(int((owner == 0).sum()) for owner in self.owner.values()) / max(1, entries)

    def packed_bytes(self, tasks: int) -> int:
        """Bytes of all owners for so many tasks at ceil(log2(tasks + 1)) bits an entry."""
        return -(-sum(owner.numel() for owner in self.owner.values()) * tasks.bit_length() // 8)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.owner)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, owner in self.owner.items():
            owner.copy_(state[name])


class FrozenEntries:
    """Entries of parameters that keep their value, to the last bit, whatever the optimiser does.

    A gradient of zero does not stop momentum, Adam's moments or weight decay, so the value is put back after each
    update; the gradient is still zeroed before it, so that it takes no part in gradient clipping.

    Args:
        parameters: by name.
        frozen: bool, in the parameter's shape.
    """

    def __init__(self, parameters: Mapping[str, Tensor], frozen: Mapping[str, Tensor]) -> None:
        held = [(parameters[name], mask) for name, mask in frozen.items() if mask.any()]
        # Products with 0 and 1 take a tenth of the time of masked writes, and are as exact.
        self._parts = [(p, (~mask).to(p.dtype), p.detach().masked_fill(~mask, 0)) for p, mask in held]

    def zero_gradients(self) -> None:
        for parameter, moving, _ in self._parts:
            if parameter.grad is not None:
                parameter.grad.detach().mul_(moving)

    def restore(self) -> None:
        for parameter, moving, value in self._parts:
            held = parameter.detach()
            torch.addcmul(value, held, moving, out=held)


def other_rows(head: GrowingHead, units: range) -> FrozenEntries:
    """Hold all rows of a head but those of ``units``: the heads of other tasks."""
    parameters = dict(head.named_parameters())
    frozen = {}
    for name, parameter in parameters.items():
        frozen[name] = torch.ones_like(parameter, dtype=torch.bool)
        frozen[name][units.start : units.stop] = False
    return FrozenEntries(parameters, frozen)
