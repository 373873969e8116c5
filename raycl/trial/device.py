"""What a trial computes on: its threads, and the device that it asks for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raycl.errors import InfrastructureError


def accelerator(gpus: float) -> torch.device | None:
    """The device of a trial that asks for a share of one; None where it asks for none.

    Raises:
        InfrastructureError: this machine has none that works. A trial must not train on the CPU without a word.
    """
    if gpus <= 0:
        return None
    if not torch.accelerator.is_available():
        raise InfrastructureError(
            f"{socket.gethostname()}: a trial asks for {gpus:g} GPUs, and torch {torch.__version__} finds none that "
            "works here; install its driver, or take this machine out of the cluster, or set resources.gpus to 0"
        )
    return torch.accelerator.current_accelerator()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads for the duration of a block, in a process that others use too."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
