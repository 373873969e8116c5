"""What a trial computes on: its threads, and the device that it asks for."""

from __future__ import annotations

import platform
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

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


@cache
def processor() -> str:
    """The instruction set that torch uses, and the CPU's own name: libraries choose their kernels by both.

    Trials of one specification are equal to the bit where this is; two CPUs with AVX-512 have differed by 1e-9.
    """
    named = ("vendor_id", "cpu family", "model", "stepping")
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:  # not Linux
        lines = []
    found = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    names = [found[name] for name in named if name in found] or [platform.processor()]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *filter(None, names)])


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads for the duration of a block, in a process that others use too."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
