"""Which task does an example belong to? The one whose network is most certain about it.

HNET+ENT of von Oswald et al., "Continual learning with hypernetworks", ICLR 2020 (arXiv 1906.00695), section 2.3:
the task whose network gives the prediction of least entropy. Or the one whose largest softmax probability is largest:
Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples in neural networks", ICLR
2017 (arXiv 1610.02136).

One rule holds for whoever chooses by certainty, where the papers' tasks are all of one size: what is compared is the
share of the largest possible uncertainty, log(n) of an entropy over n classes, n - 1 of odds, since otherwise a task of
few classes wins images that are not its own; and a task of one class, of which its network is always certain, is
refused (:func:`undecidable`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raycl.spec.needs import Extent, Need
from raycl.spec.options import StreamConfig
from raycl.spec.revisions import Change
from raycl.streams.scenario import Scenario

if TYPE_CHECKING:
    from raycl.spec.setting import Setting

CERTAINTY = Need(
    "stream.tasks",
    "must have two classes each, or more: a network of one class is always certain, and its task would be the most "
    "certain one for all images",
    lambda at: at.stream.scenario == "task" or at.extent is None or at.extent.told_apart,
    bars=True,
)
"""What :func:`undecidable` refuses, as the reader of a sweep file can tell it."""

COMPARED_AS_SHARES = Change("task selection", 2, lambda at: _by_certainty(at) and not _even(at.stream))
"""Of ensembles and SupSup: tasks of different sizes were compared by their uncertainties as they are."""


def _by_certainty(blocks: Setting) -> bool:
    own = blocks.options
    hidden = blocks.stream.scenario != "task"
    return hidden and getattr(own, "inference", "linear") == "linear" and getattr(own, "selector", "") != "average"


def _even(stream: StreamConfig) -> bool:
    """Whether the tasks of a stream are known to have equally many classes."""
    split_evenly = stream.name == "split" and getattr(stream, "first_task", None) is None
    return split_evenly or stream.name in ("permuted", "rotated")


def undecidable(scenario: Scenario) -> str | None:
    """Why the tasks of a scenario cannot be told apart by the certainty of their networks; None where they can."""
    if scenario.task_given or Extent(scenario.sizes).told_apart:
        return None
    sizes = ", ".join(map(str, scenario.sizes))
    return (
        "a network of one class is always certain, and the most certain task would be its own for all images "
        f"(got tasks of {sizes} classes); give each task two or more"
    )


def log_entropy(logits: Tensor) -> Tensor:
    """Logarithm of the softmax's entropy (in nats), over the last dimension: ``[..., units]`` -> ``[...]``.

    It orders as the entropy does, and still tells saturated predictions apart, whose entropy is 0 in float32. Units at
    minus infinity do not count; a single unit has entropy 0.
    """
    log_probability = logits.log_softmax(-1).clamp(min=torch.finfo(logits.dtype).min / 2)
    return torch.logsumexp(log_probability + torch.log(-log_probability), dim=-1)


def log_odds_against_first(logits: Tensor) -> Tensor:
    """Logarithm of (1 - p) / p, p the largest softmax probability: ``[..., units]`` -> ``[...]``.

    It falls as p grows, and still tells apart probabilities that are 1 in float32. Units at minus infinity do not
    count; a single unit has p = 1 and minus infinity.
    """
    largest, unit = logits.max(-1, keepdim=True)
    return logits.scatter(-1, unit, float("-inf")).logsumexp(-1) - largest[..., 0]


def least_entropy(groups: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Choose for each row the task of least entropy, as :func:`most_certain` does.

    Entropies are taken as shares of the largest possible one, log(units). Each task needs two units or more.
    """
    return most_certain(groups, _relative_log_entropy)


def largest_probability(groups: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Choose for each row the task whose largest softmax probability p is largest, as :func:`most_certain` does.

    The odds (1 - p) / p are taken as shares of the largest possible ones, units - 1: p = .6 is more of ten units than
    of two. Each task needs two units or more.
    """
    return most_certain(groups, _relative_log_odds)


def _relative_log_entropy(logits: Tensor) -> Tensor:
    return log_entropy(logits) - _units(logits).log().log()


def _relative_log_odds(logits: Tensor) -> Tensor:
    return log_odds_against_first(logits) - (_units(logits) - 1).log()


def _units(logits: Tensor) -> Tensor:
    """Units that take part: ``[..., units]`` -> ``[...]``."""
    return logits.isfinite().sum(-1)


def log_largest_entropy(sizes: Sequence[int]) -> list[float]:
    """Logarithm of log(n), the largest entropy over n classes, for each task, less that of the largest task.

    Exactly 0 for tasks of one size. Each of several tasks needs two classes or more.
    """
    most = max(sizes)
    return [0.0 if size == most else math.log(math.log(size) / math.log(most)) for size in sizes]


def most_certain(
    groups: Iterable[Tensor], uncertainty: Callable[[Tensor], Tensor], largest: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    """Choose for each row the task of least uncertainty; ties go to the earlier task.

    Args:
        groups: logits ``[tasks of the group, batch, units]``, task after task, in groups so that memory is bounded.
        uncertainty: ``[tasks of the group, batch, units]`` -> ``[tasks of the group, batch]``, as logarithms.
        largest: of each task, the logarithm that is subtracted from its uncertainty; default: nothing.

    Returns:
        int64 ``[batch]``, the tasks, and ``[batch, units]``, their logits.
    """
    best: tuple[Tensor, Tensor, Tensor] | None = None
    first = 0
    for logits in groups:
        found = uncertainty(logits)
        if largest is not None:
            found = found - found.new_tensor(largest[first : first + len(logits)])[:, None]
        least, place = found.min(dim=0)
        chosen = logits.gather(0, place[None, :, None].expand(1, -1, logits.shape[2]))[0]
        task = place + first
        first += len(logits)
        if best is not None:
            earlier, earlier_task, earlier_chosen = best
            better = least < earlier
            least = torch.where(better, least, earlier)
            task = torch.where(better, task, earlier_task)
            chosen = torch.where(better[:, None], chosen, earlier_chosen)
        best = least, task, chosen
    assert best is not None, "task inference needs at least one learned task"
    return best[1], best[2]


def shared_log_entropy(rows: int) -> Callable[[Tensor], Tensor]:
    """For :func:`most_certain`: every ``rows`` rows, in order, count as one, whose entropy is the sum of theirs."""

    def uncertainty(logits: Tensor) -> Tensor:
        own = log_entropy(logits)
        missing = -own.shape[-1] % rows
        groups = torch.nn.functional.pad(own, (0, missing), value=float("-inf")).unflatten(-1, (-1, rows))
        shared: Tensor = groups.logsumexp(-1).repeat_interleave(rows, -1)
        return shared[..., : own.shape[-1]]

    return uncertainty


def placed(logits: Tensor, chosen: Tensor, scenario: Scenario, learned: int) -> Tensor:
    """Put the logits of each row's own task where that task's output units lie.

    Args:
        logits: ``[batch, units]`` of the task ``chosen``, int64 ``[batch]``; units that it does not have are left out.
        learned: the last task learned.

    Returns:
        ``[batch, outputs so far]``, minus infinity at the units of other tasks.
    """
    units, outputs = logits.shape[1], scenario.outputs(learned)
    lower, upper = (bound[chosen].unsqueeze(-1) for bound in scenario.bounds(chosen.device))
    unit = torch.arange(units, device=chosen.device)
    everywhere = logits.new_full((len(logits), outputs + units), float("-inf"))
    everywhere.scatter_(1, lower + unit, logits.masked_fill(unit >= upper - lower, float("-inf")))
    return everywhere[:, :outputs]
