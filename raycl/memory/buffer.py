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
"""Rows by column: ``image`` uint8 ``[n, channels, height, width]`` un-augmented, ``label`` int64 ``[n]`` (output
units), ``task`` int64 ``[n]``, and the method's further columns."""


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

    def request(self, count: int) -> None:
        """Choose the next draw now and begin to fetch it, so that its latency hides behind the update.

        Rows come as they are at this moment; later offers and writes do not show.
        """
        ...

    def sample(self, count: int) -> Table:
        """``min(count, len)`` rows, uniformly without replacement: the requested draw where one of this size is."""
        ...

    def read(self, slots: Tensor) -> Table:
        """The rows in the given slots, in that order."""
        ...

    def write(self, slots: Tensor, columns: Table) -> None:
        """Overwrite some columns of some slots (refreshed logits, losses)."""
        ...

    @property
    def bytes(self) -> int:
        """Bytes of the rows held; stream examples are charged as pixels."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Contents, policy state, generator and the outstanding request."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None:
        """Give the storage back; actors end."""
        ...


def everything(buffer: ReplayBuffer) -> Table:
    """All rows, in slot order."""
    return buffer.read(torch.arange(len(buffer)))
