"""Drawing without replacement at a cost that does not grow with the memory."""

from __future__ import annotations

import torch
from torch import Tensor

SPARSE = 64
"""From so many rows per drawn one on, refusing repetitions is cheaper than shuffling all rows (measured)."""


def distinct(rows: int, count: int, generator: torch.Generator) -> Tensor:
    """``min(count, rows)`` distinct numbers int64 from ``0 .. rows - 1``; every ordered choice is equally likely.

    Of few numbers out of many, the first ``count`` different ones of a sequence of independent draws are taken.
    """
    if rows < SPARSE * count:
        return torch.randperm(rows, generator=generator)[:count]
    found: dict[int, None] = {}
    while len(found) < count:
        # Repetitions are rare, so a few spare draws make a second round rarer still.
        found.update(dict.fromkeys(torch.randint(rows, (count + 2,), generator=generator).tolist()))
    return torch.tensor(list(found)[:count], dtype=torch.int64)
