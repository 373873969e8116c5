"""The replay buffer: a selection policy decides the slots, a storage holds the rows.

All decisions (which slot a row takes, which slots a draw reads) are made by the policy and the buffer's own
generator, from labels and task ids alone. Storage only keeps rows by slot, in this process or in Ray actors, so the
same seed gives the same contents and the same draws wherever the rows live.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

Table = dict[str, Tensor]
"""Rows by column: ``image`` uint8, or float features, ``[n, channels, height, width]`` un-augmented, ``label`` int64
``[n]`` (output units), ``task`` int64 ``[n]``, and the method's further columns."""


class ReplayBuffer(Protocol):
    """What strategies see of the replay memory."""

    @property
    def capacity(self) -> int:
        """Rows that fit at present; grows with classes or tasks where the capacity counts per class or task."""
        ...

    @property
    def labels(self) -> Tensor:
        """int64 ``[len]``, output units of the rows, in slot order."""
        ...

    @property
    def tasks(self) -> Tensor:
        """int64 ``[len]``, task ids of the rows, in slot order."""
        ...

    def __len__(self) -> int: ...

    def add(self, rows: Table) -> None:
        """Offer rows in order; the selection policy decides which stay. Exact for batches: as if one by one."""
        ...

    @property
    def sampled(self) -> Tensor:
        """int64 ``[n]``, slots of the rows of the latest :meth:`sample`; theirs until the next offer."""
        ...

    def request(self, count: int, without_task: int | None = None) -> None:
        """Choose a draw now and begin to fetch it, so that its latency hides behind the update.

        Rows come as they are at this moment; later offers and writes do not show. Several draws may be outstanding;
        they are independent, and handed out in the order of the requests.
        """
        ...

    def sample(self, count: int, without_task: int | None = None, without_labels: Tensor | None = None) -> Table:
        """``min(count, eligible rows)`` rows, uniformly without replacement.

        The oldest requested draw where it was asked for alike; else a new one, and no request is left.

        Args:
            without_task: rows of this task are not eligible.
            without_labels: nor are rows of these output units int64 ``[m]``.
        """
        ...

    def read(self, slots: Tensor) -> Table:
        """The rows in the given slots, in that order."""
        ...

    def write(self, slots: Tensor, columns: Table) -> None:
        """Overwrite some columns of some slots (refreshed logits, losses; merged rows, with label and task)."""
        ...

    def trim(self) -> None:
        """Drop rows that the policy keeps only while nobody needs their place; the others close ranks, in order."""
        ...

    @property
    def bytes(self) -> int:
        """Bytes of the rows held; stream examples are charged as pixels."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Contents, policy state, generator and the outstanding requests."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None:
        """Give the storage back; actors end."""
        ...


def everything(buffer: ReplayBuffer) -> Table:
    """All rows, in slot order."""
    return buffer.read(torch.arange(len(buffer)))
