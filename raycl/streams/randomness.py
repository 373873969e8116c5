"""One seed, many independent purposes: class order, validation split, permutations."""

from __future__ import annotations

import hashlib

import numpy as np


def purpose_seed(seed: int, purpose: str) -> int:
    """A 32-bit seed for one purpose, so that no two purposes share random numbers."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:4], "big")


def random_state(seed: int, purpose: str, *index: int) -> np.random.RandomState:
    """The generator of one purpose, and of one task or class of it.

    ``RandomState`` because its numbers are frozen: the same seed gives the same stream under every numpy.
    """
    return np.random.RandomState([purpose_seed(seed, purpose), *index])
