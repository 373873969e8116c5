"""Explicit randomness: one generator per purpose, all derived from the run's seed and all part of the checkpoint."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for a purpose, independent of the seeds of all other purposes."""
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


class Randomness:
    """Named generators of one run, created on first use.

    Torch's global generator (dropout) is seeded too and travels with the checkpoint.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._generators: dict[str, torch.Generator] = {}
        torch.manual_seed(derive(seed, "global"))

    def __call__(self, purpose: str) -> torch.Generator:
        """The generator of a purpose; always the same object."""
        if purpose not in self._generators:
            self._generators[purpose] = torch.Generator().manual_seed(derive(self._seed, purpose))
        return self._generators[purpose]

    def state_dict(self) -> dict[str, Tensor]:
        states = {f"named/{purpose}": generator.get_state() for purpose, generator in self._generators.items()}
        return {"global": torch.get_rng_state(), **states}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for key, value in state.items():
            if key == "global":
                torch.set_rng_state(value)
            else:
                self(key.removeprefix("named/")).set_state(value)
