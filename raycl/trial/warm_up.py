"""What torch puts off until it is first used, done before a clock runs: costs are compared across methods.

The first optimiser of a process imports ``torch._dynamo``, and the first derivative in a direction torch's table of
decompositions: seconds that say nothing about the trial that happens to be first.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import nn


@cache
def warm_up() -> None:
    """Learn one step, once in a process. No generator of a trial is drawn from."""
    weight = nn.Parameter(torch.ones(1, 1))
    x = torch.ones(1, 1)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    nn.functional.linear(x, weight).sum().backward()
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its own use of torch.jit
        torch.func.jvp(lambda value: 2 * value, (x,), (x,))
