"""Explicit randomness: one generator per purpose, all derived from the run's seeds and all part of the checkpoint."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from raycl.spec.seeds import RunSeeds


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for a purpose, independent of the seeds of all other purposes."""
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


class Randomness:
    """Named generators of one run, created on first use: of the seed ``batches``, but for the starts of networks.

    Torch's global generator (dropout) is seeded too and travels with the checkpoint. The order of classes and the split
    are no concern of a trainer: they belong to the stream.
    """

    def __init__(self, seed: int | RunSeeds) -> None:
        self._seeds = RunSeeds.of(seed)
        self._generators: dict[str, torch.Generator] = {}
        torch.manual_seed(derive(self._seeds.batches, "global"))

    def __call__(self, purpose: str) -> torch.Generator:
        """The generator of a purpose; always the same object."""
        return self._generator(purpose, derive(self._seeds.batches, purpose))

    def start(self, purpose: str) -> torch.Generator:
        """The generator of initial values of networks, of the seed ``model``; always the same object."""
        return self._generator(purpose, derive(self._seeds.model, purpose))

    def start_and_draws(self, purpose: str) -> tuple[torch.Generator, torch.Generator]:
        """Two generators of one purpose: of initial values, and of what is drawn while the network learns.

        They are one where a run has one seed, as all were before sources had seeds of their own. What such a run draws
        first depends on neither; networks that grow later start from where the draws have got.
        """
        start = self.start(purpose)
        if self._seeds.plain is not None:
            return start, start
        return start, self._generator(f"{purpose}/draws", derive(self._seeds.batches, purpose, "draws"))

    def _generator(self, name: str, seed: int) -> torch.Generator:
        if name not in self._generators:
            self._generators[name] = torch.Generator().manual_seed(seed)
        return self._generators[name]

    def state_dict(self) -> dict[str, Tensor]:
        states = {f"named/{name}": generator.get_state() for name, generator in self._generators.items()}
        return {"global": torch.get_rng_state(), **states}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for key, value in state.items():
            if key == "global":
                torch.set_rng_state(value)
            else:
                self._generator(key.removeprefix("named/"), 0).set_state(value)
