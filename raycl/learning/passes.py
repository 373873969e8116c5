"""New and replayed rows on their way through a network: in one forward pass, or each draw in a pass of its own.

Without batch normalisation or dropout it is the same up to rounding. With batch normalisation rows are scaled by the
statistics of those beside them: alone, new rows see only themselves, as they do in the code of many authors, and the
running statistics move once a pass; together, all see the mixture, as at test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

ForwardPasses = Literal["separate", "joint"]
FORWARD_HELP = "new rows and each draw go through the network in passes of their own, or all in one"


def logits_of_parts(network: nn.Module, x: Tensor, sizes: Sequence[int], forward: ForwardPasses) -> Tensor:
    """Network inputs ``[batch, *]`` -> logits ``[batch, outputs]``.

    Args:
        sizes: rows of each part, in order. A part of a single row has no statistics, and makes the pass a joint one.
    """
    logits: Tensor
    if forward == "joint" or len(sizes) == 1 or min(sizes) < 2:
        logits = network(x)
        return logits
    return torch.cat([network(part) for part in x.split(list(sizes))])
