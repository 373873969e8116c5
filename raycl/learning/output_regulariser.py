"""How far a hypernetwork's outputs for old tasks have moved: the distance that its output regulariser keeps small.

von Oswald et al., "Continual learning with hypernetworks", ICLR 2020 (arXiv 1906.00695), eq. 2:
``sum_t ||h(e_t; theta*) - h(e_t; theta')||^2 / (number of old tasks)``, summed over all weights of a task. Embeddings
may move as theta does, and only change H below.

The direct form builds every old network. The Gram form gives the same value and gradients at a cost that hardly depends
on the number of old tasks: the generator ends in one linear map, so with features H and last layer (W, b)

    h - h* = (H - H*) W*^T + H (W - W*)^T + 1 (b - b*)^T = A B^T,  A = [H - H*, H, 1],  B = [W*, W - W*, b - b*]
    ||h - h*||^2 = <A^T A, B^T B>

and the largest things ever built are A (a row per old task and chunk) and B (a row per weight of one chunk). W*^T W* is
the same in every update, and W* wants no gradient. The form works on differences, so nothing cancels. Weights that do
not exist (the surplus of the last chunk, head units that a task does not have) split a chunk's rows into segments; each
segment has its own pair of Gram matrices, over the chunks in which it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from raycl.models.hypernetwork import Theta, WeightGenerator

Form = Literal["gram", "direct"]


class OutputRegulariser:
    """Holds theta* and the old tasks' embeddings for the duration of one task.

    Args:
        generator: the hypernetwork; its present parameters are copied as theta*.
        embeddings: ``[tasks, embedding_dim]`` of the old tasks; copied as e_t*.
        excluded: for each old task, where in its flat weights nothing is protected (units its head does not have).
        form: ``gram`` or ``direct``; equal up to rounding.
        cache: keep H* of all old tasks (small, grows with tasks); otherwise it is computed anew from theta*.
    """

    def __init__(
        self,
        generator: WeightGenerator,
        embeddings: Tensor,
        excluded: Sequence[Sequence[slice]],
        form: Form = "gram",
        cache: bool = True,
    ) -> None:
        self._generator = generator
        self._embeddings = embeddings.detach().clone()
        self._excluded = excluded
        self._form = form
        self._snapshot: Theta = {name: value.detach().clone() for name, value in generator.named_parameters()}
        self._cuts, self._counts = segments(generator, excluded, embeddings.device)
        with torch.no_grad():
            self._features = generator.features(self._snapshot, self._embeddings) if cache else None
            rows = [self._snapshot["weight"][start:stop] for start, stop in pairwise(self._cuts)]
            self._fixed_grams = [fixed.T @ fixed for fixed in rows]  # W*^T W* of each segment

    def __call__(self, theta: Theta, tasks: Tensor | None = None, embeddings: Tensor | None = None) -> Tensor:
        """Mean over old tasks of the squared distance ``[]`` between h(e_t; theta) and what was there, h(e_t*; theta*).

        Args:
            theta: the generator's weights, usually theta + lookahead; gradients flow into them.
            tasks: int64 ``[n]``, the old tasks that are looked at; default: all.
            embeddings: e_t ``[old tasks, embedding_dim]`` where they have moved since; gradients flow into them.
        """
        if tasks is None:
            tasks = torch.arange(len(self._embeddings), device=self._embeddings.device)
        now = self._embeddings if embeddings is None else embeddings
        features = self._generator.features(theta, now[tasks])
        target = self._target(tasks)
        if self._form == "gram":
            distance = self._by_grams(theta, features, target, self._counts[tasks])
        else:
            excluded = [self._excluded[task] for task in tasks.tolist()]
            distance = direct_distance(self._generator, theta, features, self._snapshot, target, excluded)
        return distance / len(tasks)

    @torch.no_grad()
    def _target(self, tasks: Tensor) -> Tensor:
        """H* of some old tasks, ``[tasks, num_chunks, features_dim]``."""
        if self._features is not None:
            return self._features[tasks]
        return self._generator.features(self._snapshot, self._embeddings[tasks])

    def _by_grams(self, theta: Theta, features: Tensor, target: Tensor, counts: Tensor) -> Tensor:
        """Squared distance ``[]`` summed over tasks, as ||A B^T||^2.

        Args:
            features, target: ``[tasks, num_chunks, features_dim]``, H and H*.
            counts: bool ``[tasks, num_chunks, segments]``, of :func:`segments`.
        """
        fixed = self._snapshot["weight"]  # W* [chunk_size, features_dim]
        ones = torch.ones_like(features[..., :1])
        left = torch.cat([features - target, features, ones], dim=2)  # A [tasks, num_chunks, 2 features_dim + 1]
        weight_moved = theta["weight"] - fixed
        bias_moved = theta["bias"] - self._snapshot["bias"]
        moved = torch.cat([weight_moved, bias_moved[:, None]], dim=1)  # B without W*
        distance: Tensor = _ProductNorm.apply(left, moved, fixed, self._fixed_grams, self._cuts, counts)
        return distance


def direct_distance(
    generator: WeightGenerator,
    theta: Theta,
    features: Tensor,
    snapshot: Theta,
    target: Tensor,
    excluded: Sequence[Sequence[slice]],
) -> Tensor:
    """Squared distance ``[]`` summed over tasks, every old network built, one after the other.

    Args:
        features, target: ``[tasks, num_chunks, features_dim]``, H under ``theta`` and H* under ``snapshot``.
    """
    distance = features.new_zeros(())
    for own, fixed, without in zip(features, target, excluded, strict=True):
        with torch.no_grad():
            before = generator.assemble(snapshot, fixed[None])[0]
        moved = generator.assemble(theta, own[None])[0] - before
        for part in without:  # out of place: the graph has need of what was there
            moved = torch.cat([moved[: part.start], torch.zeros_like(moved[part]), moved[part.stop :]])
        distance = distance + moved.square().sum()
    return distance


class _ProductNorm(torch.autograd.Function):
    """Sum over segments s of ||A_s B_s^T||^2, where A_s are the rows of A that count in s and B_s those of B in s.

    B is a fixed part, whose Gram matrices are known and which takes no gradient, beside a part that moves. Written out
    because autograd would do the work of the two equal factors of each Gram matrix twice, and would pad every segment's
    gradient: dA_s = 2 A_s B_s^T B_s, dB_s = 2 B_s A_s^T A_s.

    ``left`` is A ``[tasks, num_chunks, 2 f + 1]``, ``fixed`` ``[chunk_size, f]`` and ``moved`` ``[chunk_size, f + 1]``
    are B, f the generator's features. A chunk counts in a segment, ``counts[task, chunk, segment]``, with all of the
    segment's rows ``cuts[segment]:cuts[segment + 1]`` of B, or with none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        left: Tensor,
        moved: Tensor,
        fixed: Tensor,
        fixed_grams: Sequence[Tensor],
        cuts: Sequence[int],
        counts: Tensor,
    ) -> Tensor:
        grams = []
        for segment, (start, stop) in enumerate(pairwise(cuts)):
            rows = left[counts[:, :, segment]]  # A_s [chunks that count, 2 f + 1]
            held, own = fixed[start:stop], moved[start:stop]  # B_s, side by side
            mixed = held.T @ own
            upper = torch.cat([fixed_grams[segment], mixed], dim=1)
            lower = torch.cat([mixed.T, own.T @ own], dim=1)
            grams.append((rows.T @ rows, torch.cat([upper, lower])))  # A_s^T A_s and B_s^T B_s [2 f + 1, 2 f + 1]
        ctx.save_for_backward(left, moved, fixed)
        ctx.cuts, ctx.counts, ctx.grams = cuts, counts, grams
        return torch.stack([(left_gram * right_gram).sum() for left_gram, right_gram in grams]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        left, moved, fixed = ctx.saved_tensors
        width = fixed.shape[1]
        left_slope, moved_slope = torch.zeros_like(left), torch.empty_like(moved)
        for segment, (start, stop) in enumerate(pairwise(ctx.cuts)):
            left_gram, right_gram = ctx.grams[segment]
            counted = ctx.counts[:, :, segment]
            left_slope[counted] += left[counted] @ (2 * slope * right_gram)  # a chunk may count in several segments
            wanted = 2 * slope * left_gram[:, width:]  # 2 A_s^T A_s, the columns of the part that moves
            own = moved_slope[start:stop]  # a view, filled in place
            torch.matmul(fixed[start:stop], wanted[:width], out=own)
            own.addmm_(moved[start:stop], wanted[width:])
        return left_slope, moved_slope, None, None, None, None


def segments(
    generator: WeightGenerator, excluded: Sequence[Sequence[slice]], device: torch.device
) -> tuple[list[int], Tensor]:
    """Cut a chunk's rows where, in any chunk of any task, weights begin or cease to count.

    Returns:
        Borders ``0 = c_0 < ... < c_s = chunk_size``, and bool ``[tasks, num_chunks, s]``: which segments count.
    """
    size, numel = generator.chunk_size, generator.numel
    borders = {numel}
    for part in chain.from_iterable(excluded):
        borders |= {part.start, part.stop}
    cuts = sorted({0, size, *(border % size for border in borders)})
    # [num_chunks, s]: where in the flat weights a segment begins; all of it counts where its first weight does
    first = size * torch.arange(generator.num_chunks)[:, None] + torch.tensor(cuts[:-1])
    counts = (first < numel).repeat(len(excluded), 1, 1)
    for task, parts in enumerate(excluded):
        for part in parts:
            counts[task] &= (first < part.start) | (first >= part.stop)
    return cuts, counts.to(device)
