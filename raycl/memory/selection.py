"""A selection policy over all units of a replay memory: the whole memory, each class, or each task.

Each unit has a pool of positions (:mod:`raycl.memory.policies`); the selection maps them to slots of the storage, which
are numbered in the order in which they fill.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from raycl.errors import UnknownName, nearest
from raycl.memory.policies import POOLS, Pool

Unit = Literal["total", "class", "task"]


class Selection:
    """One policy over all units.

    Args:
        policy: a name of :data:`POOLS`.
        capacity: rows per unit.
        unit: one pool for the whole memory, or one for each class or task, made when its first row is offered.
        generator: source of all randomness; advanced by every offer.

    Raises:
        UnknownName: no such policy.
    """

    def __init__(self, policy: str, capacity: int, unit: Unit, generator: torch.Generator) -> None:
        if policy not in POOLS:
            raise UnknownName(
                f"unknown memory selection {policy!r}{nearest(policy, POOLS)} (known: {', '.join(POOLS)})"
            )
        self._kind = POOLS[policy]
        self._pool_capacity = capacity
        self._unit = unit
        self._generator = generator
        self._pools: dict[int, Pool] = {}
        self._slots: dict[int, list[int]] = {}  # of each pool, by position
        self._size = 0

    def __len__(self) -> int:
        """Slots in use."""
        return self._size

    @property
    def capacity(self) -> int:
        """Rows that fit at present."""
        units = 1 if self._unit == "total" else len(self._pools)
        return units * self._pool_capacity

    def offer(self, labels: Tensor, tasks: Tensor) -> dict[int, int]:
        """Offer rows in order.

        Args:
            labels, tasks: int64 ``[n]``.

        Returns:
            For each slot that changes, the row it holds afterwards.
        """
        kept: dict[int, int] = {}
        names: list[int] = labels.tolist()
        for unit, rows in self._rows_by_unit(names, tasks).items():
            pool, slots = self._pool(unit)
            offered = names if len(rows) == len(names) else [names[row] for row in rows]
            for row, position in zip(rows, pool.offer(offered, self._generator), strict=True):
                if position < 0:
                    continue
                if position == len(slots):
                    slots.append(self._size)
                    self._size += 1
                kept[slots[position]] = row
        return kept

    def trim(self) -> Tensor:
        """Give up rows that the policy keeps only while nobody needs their place.

        Returns:
            Slots int64 ``[len]`` whose rows stay, ascending; the i-th of them is slot i from now on.
        """
        for unit, pool in self._pools.items():
            slots = self._slots[unit]
            self._slots[unit] = [slots[position] for position in pool.trim(len(slots))]
        kept = sorted(slot for slots in self._slots.values() for slot in slots)
        number = {slot: place for place, slot in enumerate(kept)}
        self._slots = {unit: [number[slot] for slot in slots] for unit, slots in self._slots.items()}
        self._size = len(kept)
        return torch.tensor(kept, dtype=torch.int64)

    def _rows_by_unit(self, labels: list[int], tasks: Tensor) -> dict[int, Sequence[int]]:
        if self._unit == "total":
            return {0: range(len(labels))}
        units: dict[int, list[int]] = {}
        for row, unit in enumerate(labels if self._unit == "class" else tasks.tolist()):
            units.setdefault(unit, []).append(row)
        return dict(units)

    def _pool(self, unit: int) -> tuple[Pool, list[int]]:
        if unit not in self._pools:
            self._pools[unit], self._slots[unit] = self._kind(self._pool_capacity), []
        return self._pools[unit], self._slots[unit]

    def state_dict(self) -> dict[str, Any]:
        """Counters and positions of every pool; the generator belongs to the buffer."""
        return {
            "pools": {unit: pool.state_dict() for unit, pool in self._pools.items()},
            "slots": {unit: torch.tensor(slots, dtype=torch.int64) for unit, slots in self._slots.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._pools, self._slots = {}, {}
        for unit, pool_state in state["pools"].items():
            pool, slots = self._pool(unit)
            pool.load_state_dict(pool_state)
            slots.extend(state["slots"][unit].tolist())
        self._size = sum(map(len, self._slots.values()))


def rows_kept(policy: str, capacity: int, unit: Unit, offered: Sequence[Mapping[int, int]]) -> int:
    """How many rows a memory holds once every task has offered so many rows of each label.

    Known from the numbers alone: exact where the memory is full, and at least what it holds where it is not.
    """
    kind, seen = POOLS[policy], Counter[int]()
    for own in offered:
        seen.update(own)
    pools: Sequence[Mapping[int, int]] = [seen]
    if unit != "total":
        pools = offered if unit == "task" else [{label: rows} for label, rows in seen.items()]
    return sum(kind.kept(capacity, pool) for pool in pools)
