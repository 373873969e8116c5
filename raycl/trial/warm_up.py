"""What torch puts off until it is first used, done before a clock runs: costs are compared across methods.

The first update of a process takes longer than the others, which says nothing about the trial that happens to be first.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from raycl.learning.fused import FusedOptimizer


@cache
def warm_up() -> None:
    """Learn one step, once in a process. No generator of a trial is drawn from."""
    weight = nn.Parameter(torch.ones(1, 1))
    optimizer = FusedOptimizer("sgd", [{"params": [weight], "lr": 0.1, "weight_decay": 0.0}])
    nn.functional.linear(torch.ones(1, 1), weight).sum().backward()
    optimizer.step()
