"""The replay buffer: one selection policy, one generator, and a storage anywhere."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycl.memory.buffer import Table
from raycl.memory.columns import ColumnTypes, absent, widened
from raycl.memory.draws import distinct
from raycl.memory.local import Fetch, Storage
from raycl.memory.selection import Selection
from raycl.spec.memory import MemoryConfig


@dataclass(frozen=True)
class _Draw:
    """A draw that was requested: what was asked for, its slots, labels and tasks, and the rows on their way."""

    count: int
    without_task: int | None
    slots: Tensor
    label: Tensor
    task: Tensor
    fetch: Fetch

    def state_dict(self) -> dict[str, Any]:
        asked = {"count": self.count, "without_task": self.without_task, "slots": self.slots}
        return {**asked, "label": self.label, "task": self.task, "rows": self.fetch()}

    @staticmethod
    def of(state: dict[str, Any]) -> _Draw:
        rows = dict(state["rows"])
        names = ("count", "without_task", "slots", "label", "task")
        return _Draw(**{name: state[name] for name in names}, fetch=lambda: rows)


class ReplayMemory:
    """Meets :class:`raycl.memory.buffer.ReplayBuffer`.

    Labels and task ids stay here, since the policy and the draws need them at once; images and further columns go to
    the storage. A draw returns rows as they were when it was requested, wherever they live.

    Args:
        config: capacity and unit.
        selection: name of the selection policy, resolved.
        generator: decides every selection and draw; its state is part of :meth:`state_dict`.
        storage: an empty storage; the buffer owns it from now on.
    """

    def __init__(self, config: MemoryConfig, selection: str, generator: torch.Generator, storage: Storage) -> None:
        self._selection = Selection(selection, config.examples, config.unit, generator)
        self._generator = generator
        self._storage = storage
        self._schema: ColumnTypes = {}
        self._label = torch.empty(0, dtype=torch.int64)
        self._task = torch.empty(0, dtype=torch.int64)
        self._draws: deque[_Draw] = deque()
        self._sampled = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._selection)

    @property
    def capacity(self) -> int:
        return self._selection.capacity

    @property
    def labels(self) -> Tensor:
        return self._label[: len(self)]

    @property
    def tasks(self) -> Tensor:
        return self._task[: len(self)]

    @property
    def bytes(self) -> int:
        per_row = sum(np.dtype(dtype).itemsize * prod(shape) for dtype, shape in self._schema.values())
        label_and_task = self._label.element_size() + self._task.element_size()
        return len(self) * (per_row + label_and_task)

    def add(self, rows: Table) -> None:
        """Offer rows in order; where two of them would take one slot, the later one does."""
        columns = dict(rows)
        labels, tasks = columns.pop("label").cpu(), columns.pop("task").cpu()
        kept = self._selection.offer(labels, tasks)
        if not kept:
            return
        slots, chosen = torch.tensor(list(kept)), torch.tensor(list(kept.values()))
        self._reserve(len(self))
        self._label[slots], self._task[slots] = labels[chosen], tasks[chosen]
        columns = {name: column.detach().cpu().index_select(0, chosen) for name, column in columns.items()}
        self._declare(columns)
        self._storage.write(slots, self._completed(columns, len(slots)))

    def write(self, slots: Tensor, columns: Table) -> None:
        """Overwrite some columns of distinct slots; the selection policy is not asked."""
        columns, slots = {name: column.detach().cpu() for name, column in columns.items()}, slots.cpu()
        for name, own in (("label", self._label), ("task", self._task)):
            if name in columns:
                own[slots] = columns.pop(name)
        self._declare(columns)
        self._storage.write(slots, {name: self._widened(name, column) for name, column in columns.items()})

    def trim(self) -> None:
        kept = self._selection.trim()
        slots = torch.arange(len(kept))
        moved = kept != slots
        if moved.any():
            self.write(slots[moved], self.read(kept[moved]))

    @property
    def sampled(self) -> Tensor:
        return self._sampled

    def request(self, count: int, without_task: int | None = None) -> None:
        """Choose one more draw from what is held now and begin to fetch it; draws are handed out in order."""
        self._draws.append(self._begin(count, without_task, self._eligible(without_task, None)))

    def sample(self, count: int, without_task: int | None = None, without_labels: Tensor | None = None) -> Table:
        """``min(count, eligible rows)`` rows: the oldest requested draw where it was asked for alike, else a new one.

        A question that fits no request drops all of them. A draw that found no row is drawn anew.
        """
        draw = self._draws.popleft() if self._draws and without_labels is None else None
        if draw is not None and (draw.count, draw.without_task) != (count, without_task):
            draw = None
        if draw is None:
            self._draws.clear()
        if draw is None or not len(draw.slots):
            draw = self._begin(count, without_task, self._eligible(without_task, without_labels))
        self._sampled = draw.slots
        return {"label": draw.label, "task": draw.task, **draw.fetch()}

    def _eligible(self, without_task: int | None, without_labels: Tensor | None) -> Tensor | None:
        """Which slots may be drawn, bool ``[len]``; None: all."""
        eligible = None if without_task is None else self.tasks != without_task
        if without_labels is not None:
            others = ~torch.isin(self.labels, without_labels.cpu())
            eligible = others if eligible is None else eligible & others
        return eligible

    def _begin(self, count: int, without_task: int | None, eligible: Tensor | None) -> _Draw:
        if eligible is None:
            slots = distinct(len(self), count, self._generator)
        else:
            among = eligible.nonzero().flatten()
            slots = among[distinct(len(among), count, self._generator)]
        label, task = self._label.index_select(0, slots), self._task.index_select(0, slots)
        return _Draw(count, without_task, slots, label, task, self._storage.begin_read(slots))

    def read(self, slots: Tensor) -> Table:
        slots = slots.cpu()
        return {"label": self._label[slots], "task": self._task[slots], **self._storage.begin_read(slots)()}

    def state_dict(self) -> dict[str, Any]:
        """Contents, policy, generator and the requested draws; the buffer goes on as if it had not been asked."""
        return {
            "selection": self._selection.state_dict(),
            "generator": self._generator.get_state(),
            "rows": self.read(torch.arange(len(self))),
            "draws": self._draw_states(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._selection.load_state_dict(state["selection"])
        rows = dict(state["rows"])
        self._label, self._task = rows.pop("label").clone(), rows.pop("task").clone()
        self._declare(rows)
        self._storage.write(torch.arange(len(self)), rows)
        self._draws = deque(map(_Draw.of, state["draws"]))
        self._generator.set_state(state["generator"])

    def close(self) -> None:
        self._draws.clear()
        self._storage.close()

    def _draw_states(self) -> list[dict[str, Any]]:
        """The draws that are outstanding; a read completes once, so they go on from the rows that it gave."""
        states = [draw.state_dict() for draw in self._draws]
        self._draws = deque(map(_Draw.of, states))
        return states

    def _declare(self, columns: Table) -> None:
        """Tell the storage of new columns, and of entries that have become larger (logits of a head that grew)."""
        changed: ColumnTypes = {}
        for name, column in columns.items():
            dtype, shape = column.numpy().dtype.str, tuple(column.shape[1:])
            known = self._schema.get(name)
            if known is not None:
                dtype = known[0]
                shape = tuple(max(pair) for pair in zip(shape, known[1], strict=True))
            if known != (dtype, shape):
                changed[name] = (dtype, shape)
        if changed:
            self._schema |= changed
            self._storage.declare(changed)

    def _widened(self, name: str, column: Tensor) -> Tensor:
        if tuple(column.shape[1:]) == self._schema[name][1]:
            return column
        return torch.from_numpy(widened(column.numpy(), self._schema[name][1]))

    def _completed(self, columns: Table, rows: int) -> Table:
        """Every column of the schema; what these rows lack is absent."""
        return {
            name: self._widened(name, columns[name])
            if name in columns
            else torch.from_numpy(absent(rows, dtype, shape))
            for name, (dtype, shape) in self._schema.items()
        }

    def _reserve(self, rows: int) -> None:
        if rows > len(self._label):
            room = torch.zeros(max(rows, 2 * len(self._label)) - len(self._label), dtype=torch.int64)
            self._label, self._task = torch.cat([self._label, room]), torch.cat([self._task, room])
