"""Prototypes on a replay buffer: rows of one class that lie closest are merged to make room for new ones.

The rows live in the buffer's slots, in this process or in actors, each with the number of examples behind it (column
``count``). Which slots belong to which class, and the distances among them, stay here: a new row costs one pass over
the rows of its class, not one over all pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raycl.errors import MethodError
from raycl.memory.buffer import ReplayBuffer, Table


class Clusters:
    """Merges what a full memory holds; fills the buffer's slots in order before that.

    Args:
        buffer: with selection ``ring`` and the same capacity and unit.
        capacity: rows per class, or of all classes together.
        per_class: what the capacity counts for.
    """

    def __init__(self, buffer: ReplayBuffer, capacity: int, per_class: bool) -> None:
        self._buffer = buffer
        self._capacity = capacity
        self._per_class = per_class
        self._slots: dict[int, list[int]] = {}
        self._distances: dict[int, Tensor] = {}  # squared, [rows, rows]; infinite from a row to itself

    def insert(self, row: Table) -> None:
        """Take in one row: ``image`` float ``[1, *]``, ``label`` and ``task`` int64 ``[1]``.

        Raises:
            MethodError: every class holds one row, and this one is of a new class.
        """
        row = {**row, "count": torch.ones(1, dtype=torch.int64)}
        label = int(row["label"])
        if self._is_full(label):
            self._make_room(label, row)
        else:
            slot, beside = len(self._buffer), self._rows(label)
            self._buffer.add(row)
            self._join(label, slot, row["image"], beside)

    def _is_full(self, label: int) -> bool:
        held = len(self._slots.get(label, ())) if self._per_class else len(self._buffer)
        return held >= self._capacity

    def _make_room(self, label: int, row: Table) -> None:
        """Merge two rows of the class with most rows and put ``row`` in the place that this leaves."""
        fullest = label if self._per_class else max(self._slots, key=lambda name: len(self._slots[name]))
        if len(self._slots[fullest]) == 1:
            self._absorb(label, row)
            return
        kept, freed, merged, beside = self._merge(fullest)
        if fullest != label:
            beside = self._rows(label)
        both = {name: torch.cat([merged[name], row[name]]) for name in row}
        self._buffer.write(torch.tensor([kept, freed]), both)
        self._join(label, freed, row["image"], beside)

    def _absorb(self, label: int, row: Table) -> None:
        """Merge ``row`` itself into the only row of its class: a running mean."""
        if label not in self._slots:
            raise MethodError(
                f"memory.capacity must be at least the number of classes (got {self._capacity}); enlarge it, or "
                "count it per class by memory.unit"
            )
        slot = torch.tensor(self._slots[label])
        held = self._buffer.read(slot)
        self._buffer.write(slot, weighted_mean({name: torch.cat([held[name], row[name]]) for name in row}))

    def _merge(self, label: int) -> tuple[int, int, Table, Tensor]:
        """Take two closest rows of a class for one, in the bookkeeping.

        Returns:
            The slot of the merged row, the slot that is free, the merged row, and the images of the class afterwards.
        """
        slots = self._slots[label]
        pair = closest(self._distances[label])
        rows = self._buffer.read(torch.tensor(slots))
        merged = weighted_mean({name: column[list(pair)] for name, column in rows.items()})
        first, second = pair
        kept, freed = slots[first], slots[second]
        images, distances = rows["image"], self._distances[label]
        images[first] = merged["image"][0]
        distances[first] = distances[:, first] = squared_distances(images, images[first])
        distances[first, first] = float("inf")
        left = [place for place in range(len(slots)) if place != second]
        self._slots[label] = [slots[place] for place in left]
        self._distances[label] = distances[left][:, left]
        return kept, freed, merged, images[left]

    def _join(self, label: int, slot: int, image: Tensor, beside: Tensor) -> None:
        """Count a slot among those of a class, whose images are ``beside``."""
        self._slots.setdefault(label, []).append(slot)
        count = len(beside)
        distances = torch.full((count + 1, count + 1), float("inf"))
        if count:
            distances[:count, :count] = self._distances[label]
            distances[count, :count] = distances[:count, count] = squared_distances(beside, image[0])
        self._distances[label] = distances

    def _rows(self, label: int) -> Tensor:
        """Images of a class, in the order of its slots."""
        slots = self._slots.get(label)
        return self._buffer.read(torch.tensor(slots))["image"] if slots else torch.empty(0)

    def state_dict(self) -> dict[str, Any]:
        """Slots and distances by class; the rows are the buffer's."""
        slots = {label: torch.tensor(slots) for label, slots in self._slots.items()}
        return {"slots": slots, "distances": dict(self._distances)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._slots = {label: slots.tolist() for label, slots in state["slots"].items()}
        self._distances = {label: distances.clone() for label, distances in state["distances"].items()}


def rows_by_class(capacity: int, per_class: bool, offered: Mapping[int, int]) -> list[int]:
    """How many rows each class holds once so many of each have been offered, whatever the order of the classes.

    In a buffer that is shared the fullest class gives way, so all hold the same, within a row, but for those of which
    there were fewer.
    """
    held, left = [], capacity
    for place, rows in enumerate(sorted(offered.values())):
        share = capacity if per_class else left // (len(offered) - place)
        held.append(min(rows, share))
        left -= held[-1]
    return held


def weighted_mean(rows: Table) -> Table:
    """Two rows as one: the mean of the images weighted by their counts, the sum of the counts, the latter's task."""
    count = rows["count"]
    share = (count / count.sum()).view(-1, *[1] * (rows["image"].dim() - 1))
    return {
        "image": (share * rows["image"]).sum(0, keepdim=True),
        "count": count.sum(0, keepdim=True),
        "label": rows["label"][-1:],
        "task": rows["task"][-1:],
    }


def closest(distances: Tensor) -> tuple[int, int]:
    """Places of two closest rows, the first one first."""
    first, second = divmod(int(distances.argmin()), len(distances))
    return min(first, second), max(first, second)


def squared_distances(images: Tensor, image: Tensor) -> Tensor:
    """Squared Euclidean distances ``[rows]`` from ``[rows, *]`` to ``[*]``; differences first, so that none cancel."""
    return (images - image).flatten(1).square().sum(1)
