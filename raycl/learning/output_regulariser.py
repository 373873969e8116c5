"""How far a hypernetwork's outputs for old tasks have moved: the distance that its output regulariser keeps small.

von Oswald et al., "Continual learning with hypernetworks", ICLR 2020 (arXiv 1906.00695), eq. 2:
``sum_t ||h(e_t; theta*) - h(e_t; theta')||^2 / (number of old tasks)``, summed over all weights of a task.

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
from itertools import pairwise
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
        embeddings: ``[tasks, embedding_dim]`` of the old tasks.
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
            fixed = self._snapshot["weight"]
            self._fixed_grams = [fixed[start:stop].T @ fixed[start:stop] for start, stop in pairwise(self._cuts)]

    def __call__(self, theta: Theta, tasks: Tensor | None = None) -> Tensor:
        """Mean over old tasks of the squared distance ``[]`` between h(e_t; theta) and h(e_t; theta*).

        Args:
            theta: the generator's weights, usually theta + lookahead; gradients flow into them.
            tasks: int64 ``[n]``, the old tasks that are looked at; default: all.
        """
        if tasks is None:
            tasks = torch.arange(len(self._embeddings), device=self._embeddings.device)
        embeddings = self._embeddings[tasks]
        features = self._generator.features(theta, embeddings)
        with torch.no_grad():
            cached = self._features
            target = self._generator.features(self._snapshot, embeddings) if cached is None else cached[tasks]
        if self._form == "gram":
            fixed = self._snapshot["weight"]
            left = torch.cat([features - target, features, torch.ones_like(features[..., :1])], dim=2)
            moved = torch.cat([theta["weight"] - fixed, (theta["bias"] - self._snapshot["bias"])[:, None]], dim=1)
            distance: Tensor = _ProductNorm.apply(
                left, moved, fixed, self._fixed_grams, self._cuts, self._counts[tasks]
            )
        else:
            excluded = [self._excluded[task] for task in tasks.tolist()]
            distance = direct_distance(self._generator, theta, features, self._snapshot, target, excluded)
        return distance / len(tasks)


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
        for part in without:
            moved = torch.cat([moved[: part.start], torch.zeros_like(moved[part]), moved[part.stop :]])
        distance = distance + moved.square().sum()
    return distance


class _ProductNorm(torch.autograd.Function):
    """Sum over segments s of ||A_s B_s^T||^2, where A_s are the rows of A that count in s and B_s those of B in s.

    B is a fixed part, whose Gram matrices are known and which takes no gradient, beside a part that moves. Written out
    because autograd would do the work of the two equal factors of each Gram matrix twice, and would pad every segment's
    gradient: dA_s = 2 A_s B_s^T B_s, dB_s = 2 B_s A_s^T A_s.
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
            rows, own, mixed = left[counts[:, :, segment]], moved[start:stop], fixed[start:stop].T @ moved[start:stop]
            columns = torch.cat(
                [torch.cat([fixed_grams[segment], mixed], dim=1), torch.cat([mixed.T, own.T @ own], dim=1)]
            )
            grams.append((rows.T @ rows, columns))
        ctx.save_for_backward(left, moved, fixed)
        ctx.cuts, ctx.counts, ctx.grams = cuts, counts, grams
        return torch.stack([(row_gram * column_gram).sum() for row_gram, column_gram in grams]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        left, moved, fixed = ctx.saved_tensors
        width = fixed.shape[1]
        left_slope, moved_slope = torch.zeros_like(left), torch.empty_like(moved)
        for segment, ((start, stop), (row_gram, column_gram)) in enumerate(
            zip(pairwise(ctx.cuts), ctx.grams, strict=True)
        ):
            counted = ctx.counts[:, :, segment]
            left_slope[counted] += left[counted] @ (2 * slope * column_gram)
            wanted = 2 * slope * row_gram[:, width:]
            own = moved_slope[start:stop]
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
    borders = {numel, *(border for parts in excluded for part in parts for border in (part.start, part.stop))}
    cuts = sorted({0, size, *(border % size for border in borders)})
    first = size * torch.arange(generator.num_chunks)[:, None] + torch.tensor(cuts[:-1])
    counts = (first < numel).repeat(len(excluded), 1, 1)
    for task, parts in enumerate(excluded):
        for part in parts:
            counts[task] &= (first < part.start) | (first >= part.stop)
    return cuts, counts.to(device)
