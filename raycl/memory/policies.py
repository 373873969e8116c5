"""Which examples a replay memory keeps: the policies, each over the rows of one unit, from their labels alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from raycl.errors import MethodError


class Pool(ABC):
    """Positions ``0 .. size - 1`` of one unit; a row that adds a position takes the next one."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    @abstractmethod
    def offer(self, labels: Sequence[int], generator: torch.Generator) -> list[int]:
        """The position of each row, in order, as if offered one by one; -1 where a row is not kept."""

    @classmethod
    def kept(cls, capacity: int, offered: Mapping[int, int]) -> int:
        """How many rows stay, trimmed, of so many of each class that have been offered; exact where the memory is full,
        and at least that where it is not."""
        return min(capacity, sum(offered.values()))

    def trim(self, size: int) -> Sequence[int]:
        """Give up rows that stay only while nobody needs their place.

        Args:
            size: positions in use.

        Returns:
            The positions whose rows stay, ascending; they are numbered anew from 0.
        """
        return range(size)

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Reservoir(Pool):
    """A uniform sample of everything offered so far: algorithm R of Vitter 1985.

    With n rows seen, the next one takes position j ~ U{0..n}, and is not kept where j >= capacity.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._seen = 0

    def offer(self, labels: Sequence[int], generator: torch.Generator) -> list[int]:
        draws: list[float] = torch.rand(len(labels), dtype=torch.float64, generator=generator).tolist()
        capacity, numbers = self.capacity, range(self._seen, self._seen + len(labels))
        self._seen = numbers.stop
        positions = [n if n < capacity else int(draw * (n + 1)) for n, draw in zip(numbers, draws, strict=True)]
        return [position if position < capacity else -1 for position in positions]

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seen = state["seen"]


class Ring(Pool):
    """The latest rows, first in, first out."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._next = 0

    def offer(self, labels: Sequence[int], generator: torch.Generator) -> list[int]:
        start = self._next
        self._next = (start + len(labels)) % self.capacity
        return [(start + row) % self.capacity for row in range(len(labels))]

    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._next = state["next"]


class RandomReplacement(Pool):
    """Random replay of Pellegrini et al., IROS 2020 (arXiv 1912.01100), algorithm 2; one ``offer`` is one experience.

    After the i-th experience, i counted from 1, h = capacity // i of its rows, drawn without replacement, take the
    places of as many random old rows; fewer where it has fewer rows. Each experience so far keeps an equal share in
    expectation. Departures: while the memory is not full, free positions are filled first; with more experiences than
    rows h is 0, the memory would never change again, and this is refused.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._experiences = 0
        self._size = 0

    def offer(self, labels: Sequence[int], generator: torch.Generator) -> list[int]:
        self._experiences += 1
        free = self.capacity - self._size
        if self._experiences > self.capacity:
            raise MethodError(
                f"memory.selection: random gives every offer a share, at least a row (got offer {self._experiences} of "
                f"{self.capacity} rows); enlarge memory.capacity, offer whole tasks, or use reservoir"
            )
        count = min(len(labels), max(self.capacity // self._experiences, free))
        filled = min(count, free)
        chosen = sorted(torch.randperm(len(labels), generator=generator)[:count].tolist())
        replaced = torch.randperm(self._size, generator=generator)[: count - filled].tolist()
        positions = [-1] * len(labels)
        for row, position in zip(chosen, [*range(self._size, self._size + filled), *replaced], strict=True):
            positions[row] = position
        self._size += filled
        return positions

    def state_dict(self) -> dict[str, Any]:
        return {"experiences": self._experiences, "size": self._size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._experiences, self._size = state["experiences"], state["size"]


class Balanced(Pool):
    """Positions by class, with the largest class at hand: a row costs the same for ten classes and for ten thousand."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._members: dict[int, list[int]] = {}
        self._by_count: dict[int, list[int]] = {}
        self._place: dict[int, int] = {}  # where a class stands in its list of _by_count
        self._largest = 0
        self._size = 0

    def offer(self, labels: Sequence[int], generator: torch.Generator) -> list[int]:
        draws = _uniforms(len(labels), 2, generator)
        return [self._position(label, *draw) for label, draw in zip(labels, draws, strict=True)]

    @abstractmethod
    def _position(self, label: int, first: float, second: float) -> int:
        """The position of one row, from two numbers drawn uniformly from [0, 1)."""

    def _insert(self, label: int, first: float, second: float) -> int:
        """A free position, or that of a random row of the largest class (a random one of several)."""
        position = self._size
        if self._size < self.capacity:
            self._size += 1
        else:
            position = self._evict(first, second)
        rows = self._members.setdefault(label, [])
        rows.append(position)
        self._moved(label, len(rows) - 1, len(rows))
        return position

    def _evict(self, first: float, second: float) -> int:
        classes = self._by_count[self._largest]
        label = classes[int(first * len(classes))]
        rows = self._members[label]
        row = int(second * len(rows))
        position = rows[row]
        rows[row] = rows[-1]
        rows.pop()
        self._moved(label, len(rows) + 1, len(rows))
        return position

    def _moved(self, label: int, before: int, after: int) -> None:
        """Keep the classes by count, and the largest count, after a class gained or lost a row."""
        if label in self._place:
            old, place = self._by_count[before], self._place[label]
            old[place] = old[-1]
            self._place[old[place]] = place
            old.pop()
        new = self._by_count.setdefault(after, [])
        self._place[label] = len(new)
        new.append(label)
        if after > self._largest or not self._by_count[self._largest]:
            self._largest = after

    def state_dict(self) -> dict[str, Any]:
        classes = [label for count in sorted(self._by_count) for label in self._by_count[count]]
        return {
            "classes": torch.tensor(classes, dtype=torch.int64),
            "counts": torch.tensor([len(self._members[label]) for label in classes], dtype=torch.int64),
            "members": torch.tensor([row for label in classes for row in self._members[label]], dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rows = iter(state["members"].tolist())
        self._members, self._by_count, self._place = {}, {}, {}
        for label, count in zip(state["classes"].tolist(), state["counts"].tolist(), strict=True):
            self._members[label] = [next(rows) for _ in range(count)]
            classes = self._by_count.setdefault(count, [])
            self._place[label] = len(classes)
            classes.append(label)
        self._size = len(state["members"])
        self._largest = max(self._by_count, default=0)


class ClassBalanced(Balanced):
    """Class-balancing reservoir sampling: Chrysakis and Moens, ICML 2020, algorithm 1.

    Once the memory is full, a row of a class that has never been the largest takes the place of a random row of the
    largest class. A class that has been the largest keeps a uniform sample of its own rows: the n-th row of a class
    that holds m takes the place of one of them with probability m / n.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._seen: dict[int, int] = {}
        self._full: set[int] = set()

    def _position(self, label: int, first: float, second: float) -> int:
        self._seen[label] = self._seen.get(label, 0) + 1
        if self._size < self.capacity:
            return self._insert(label, first, second)
        held = self._members.get(label, [])
        if label not in self._full and len(held) < self._largest:
            return self._insert(label, first, second)
        self._full.add(label)
        return held[int(second * len(held))] if first * self._seen[label] < len(held) else -1

    def _evict(self, first: float, second: float) -> int:
        classes = self._by_count[self._largest]
        self._full.add(classes[int(first * len(classes))])
        return super()._evict(first, second)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        classes = state["classes"].tolist()
        state["seen"] = torch.tensor([self._seen[label] for label in classes], dtype=torch.int64)
        state["full"] = torch.tensor([label in self._full for label in classes], dtype=torch.bool)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        classes = state["classes"].tolist()
        self._seen = dict(zip(classes, state["seen"].tolist(), strict=True))
        self._full = {label for label, full in zip(classes, state["full"].tolist(), strict=True) if full}


class Greedy(Balanced):
    """The greedy balanced sampler of GDumb: Prabhu, Torr and Dokania, ECCV 2020, algorithm 1.

    A row is kept where its class is new or holds fewer than capacity / (classes seen) rows; a full memory gives up a
    random row of its largest class for it.
    """

    def _position(self, label: int, first: float, second: float) -> int:
        seen = len(self._members) + (label not in self._members)
        if len(self._members.get(label, ())) >= self.capacity / seen:
            return -1
        return self._insert(label, first, second)


class Ranked(Balanced):
    """The first rows of every class, which is offered best row first: the exemplar sets of iCaRL.

    Rebuffi, Kolesnikov, Sperl and Lampert, CVPR 2017, algorithms 2 and 5. With c classes seen, the first
    m = capacity // c rows of each one stay. The rows behind them, of classes that came when m was larger, give way as
    their places are needed, the last row of a largest class first; :meth:`trim` drops those that are left.
    """

    def offer(self, labels: Sequence[int], generator: torch.Generator) -> list[int]:
        return [self._position(label, 0.0, 0.0) for label in labels]

    def _position(self, label: int, first: float, second: float) -> int:
        seen = len(self._members) + (label not in self._members)
        if len(self._members.get(label, ())) >= self._quota(seen):
            return -1
        return self._insert(label, first, second)

    @classmethod
    def kept(cls, capacity: int, offered: Mapping[int, int]) -> int:
        quota = cls(capacity)._quota(len(offered))
        return min(capacity, sum(min(quota, rows) for rows in offered.values()))

    def _quota(self, classes: int) -> int:
        return max(1, self.capacity // max(1, classes))

    def _evict(self, first: float, second: float) -> int:
        label = self._by_count[self._largest][-1]
        rows = self._members[label]
        position = rows.pop()
        self._moved(label, len(rows) + 1, len(rows))
        return position

    def trim(self, size: int) -> Sequence[int]:
        while self._largest > self._quota(len(self._members)):
            self._evict(0.0, 0.0)
        kept = sorted(position for rows in self._members.values() for position in rows)
        number = {position: place for place, position in enumerate(kept)}
        self._members = {label: [number[position] for position in rows] for label, rows in self._members.items()}
        self._size = len(kept)
        return kept


POOLS: dict[str, type[Pool]] = {
    "reservoir": Reservoir,
    "class_balanced": ClassBalanced,
    "random": RandomReplacement,
    "ring": Ring,
    "greedy": Greedy,
    "ranked": Ranked,
}


def _uniforms(rows: int, columns: int, generator: torch.Generator) -> list[list[float]]:
    """Numbers from [0, 1), ``rows`` lists of ``columns``; the same sequence however it is cut into batches."""
    numbers: list[list[float]] = torch.rand(rows, columns, dtype=torch.float64, generator=generator).tolist()
    return numbers
