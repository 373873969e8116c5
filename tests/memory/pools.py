"""Pools of row numbers, as tests of policies fill them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from raycl.memory.policies import Pool

MakePool = Callable[[int], Pool]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def held_rows(pool: Pool, batches: Sequence[Sequence[int]], random: torch.Generator) -> list[int]:
    """The numbers of the rows held after the batches of labels were offered."""
    held: dict[int, int] = {}
    row = 0
    for labels in batches:
        for position in pool.offer(labels, random):
            if position >= 0:
                held[position] = row
            row += 1
    return list(held.values())
