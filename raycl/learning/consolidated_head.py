"""A head in two copies: one that each task learns from scratch, and one in which what was learned is put together.

``cwr``: Lomonaco and Maltoni, "CORe50: a new dataset and benchmark for continuous object recognition", CoRL 2017 (arXiv
1705.03550). ``cwr_plus``: Maltoni and Lomonaco, "Continuous learning in single-incremental-task scenarios", 2019 (arXiv
1806.08568), algorithm 2. ``cwr_star``: Lomonaco, Maltoni and Pellegrini, "Rehearsal-free continual learning over small
non-i.i.d. batches", 2020 (arXiv 1907.03799), algorithm 1. A task has classes C with n_c examples each; w are the rows
of the temporary head, W of the consolidated one, and avg(w) is one number, the mean over all entries of the rows C:

    cwr:       w begins at its first random values    W_c <- scale * w_c            (scale is 1 in the first task)
    cwr_plus:  w begins at 0                          W_c <- w_c - avg(w)
    cwr_star:  w begins at 0, at W where c is known   W_c <- (s_c W_c + w_c - avg(w)) / (s_c + 1),
                                                      s_c = sqrt(N_c / n_c)

N_c counts the examples of earlier tasks and is 0 for a new class, which ``cwr_star`` therefore treats as ``cwr_plus``.
Rows of other classes stay to the last bit. There is no bias.

Departures of ``cwr`` from its authors' code: a class that comes back takes its latest rows, where theirs averages them
with what was known, (k W_c + w_c) / (k + 1) for the k-th time, counted from 0; and theirs keeps a bias for each class,
copied with the rows.

Where rows of other classes compete as they are consolidated (``keep_others``), no mean is taken away: rows that were
learned beside those that they meet at test are right as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from raycl.errors import Problem, SpecError
from raycl.models.network import GrowingHead

Variant = Literal["cwr", "cwr_plus", "cwr_star"]
VARIANT_HELP = "copied; begun at 0 and shifted by its mean; also averaged with what was known"


class ConsolidatedHead:
    """Keeps a network's head: the consolidated one between tasks, the temporary one while a task is learned.

    Args:
        head: of the network; its rows are written in place.
        scale: of ``cwr``, for tasks after the first.

    Raises:
        SpecError: the head sees directions only, and rows are consolidated by their sizes.
    """

    def __init__(self, head: GrowingHead, variant: Variant, scale: float = 1.0) -> None:
        if not head.affine:
            rule = "a consolidated head puts rows together by their sizes, which cosines do not see; use linear"
            raise SpecError([Problem("model.classifier", rule, "cosine")])
        self.head = head
        self._variant = variant
        self._scale = scale
        self.past = torch.zeros(0, dtype=torch.int64, device=head.weight.device)  # examples of each unit so far
        self._first = head.weight.detach().clone()  # of cwr: the values at which rows begin
        self._kept: Tensor | None = None
        self._beside_others = False
        self._units = self._counts = self.past

    @torch.no_grad()
    def grow(self) -> None:
        """To be called after the network's head has grown: rows of classes that were never seen are 0."""
        weight, known = self.head.weight, len(self.past)
        if self._variant == "cwr":
            self._first = torch.cat([self._first, weight[known:]])
        weight[known:] = 0
        bias = self.head.bias
        assert bias is not None
        bias.zero_()
        bias.requires_grad_(False)
        self.past = torch.cat([self.past, self.past.new_zeros(len(weight) - known)])

    @torch.no_grad()
    def begin(self, counts: Mapping[int, int], keep_others: bool = False) -> None:
        """Put the temporary head in place.

        Args:
            counts: examples of the task by output unit, replayed ones included.
            keep_others: rows of other classes compete as they are consolidated, not from 0; then rows of the task are
                not shifted.
        """
        weight = self.head.weight
        self._units = torch.tensor(list(counts), device=weight.device)
        self._counts = torch.tensor(list(counts.values()), device=weight.device)
        self._kept, self._beside_others = weight.detach().clone(), keep_others
        known = self._first.clone() if self._variant == "cwr" else torch.zeros_like(weight)
        if self._variant == "cwr_star":
            known[self._units] = weight[self._units]
        if keep_others:
            others = self._others()
            known[others] = weight[others]
        weight.copy_(known)

    def _others(self) -> Tensor:
        """Which units the task does not have, bool ``[units]``."""
        others = torch.ones_like(self.past, dtype=torch.bool)
        others[self._units] = False
        return others

    @torch.no_grad()
    def consolidate(self) -> None:
        """Put the consolidated head back, with what the task has learned."""
        assert self._kept is not None, "begin comes first"
        units, weight = self._units, self.head.weight
        learned = weight[units]
        if self._variant == "cwr":
            learned *= self._scale if self.past.any() else 1.0
        elif not self._beside_others:
            learned = self._shifted(learned)
        if self._variant == "cwr_star":
            share = self._share()[:, None]
            learned = (share * self._kept[units] + learned) / (share + 1)
        weight.copy_(self._kept)
        weight[units] = learned
        self.past[units] += self._counts
        self._kept = None

    def _shifted(self, learned: Tensor) -> Tensor:
        """Rows ``[units of the task, features]`` without their common mean, one number: norms of rows stay apart."""
        return learned - learned.mean()

    def _share(self) -> Tensor:
        """Weight of what was known beside what the task has learned, ``[units of the task]``."""
        return (self.past[self._units] / self._counts).sqrt()

    def state_dict(self) -> dict[str, Any]:
        """Between two tasks; the rows themselves are the network's."""
        return {"past": self.past, "first": self._first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict` into a head of as many units."""
        self.past.copy_(state["past"])
        self._first.copy_(state["first"])
