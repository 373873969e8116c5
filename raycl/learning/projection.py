"""The gradient nearest to a new task's that does not raise the losses of old tasks, to first order.

Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017 (arXiv 1706.08840), eq. 11:
``min_z 1/2 ||g - z||^2`` subject to ``<z, g_k> >= 0`` for every old task k. Its dual has one unknown per old task,
``min_v 1/2 v^T G G^T v + (G g)^T v`` with ``v >= margin``, and ``z = G^T v + g``. It is solved exactly, in float64, as
a non-negative least squares problem (Lawson and Hanson's active sets).

A single constraint has a closed form (Chaudhry et al. 2019, arXiv 1812.00420, eq. 11): the part of g along g_ref goes.

An old gradient of zero objects to nothing, and one whose square underflows has no direction that products could tell:
both are left out. They are nothing out of the way: the loss of a task of one class is always zero, and where an old
task is answered with certainty, float32 has nothing left of its gradient.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raycl.errors import MethodError

RIDGE = 1e-9
"""Added to the diagonal of G G^T, times that diagonal, so that dependent gradients leave the dual strictly convex.

Constraints hold up to ``<z, g_k> >= -ridge * v_k * ||g_k||^2``. Where products are rounded more coarsely, the ridge is
:data:`ROUNDINGS` of their last digit. The authors add an absolute 1e-3, which outweighs small gradients.
"""

ROUNDINGS = 8


class Past(Protocol):
    """Gradients ``[tasks, parameters]`` of old tasks, which need not be formed."""

    def gram(self) -> Tensor:
        """``[tasks, tasks]``, the products of all pairs."""
        ...

    def products(self, gradient: Tensor) -> Tensor:
        """``[tasks]``, the products with a gradient ``[parameters]``."""
        ...

    def added(self, gradient: Tensor, weights: Tensor) -> Tensor:
        """``[parameters]``, a gradient and these times their weights ``[tasks]``."""
        ...


def project(gradient: Tensor, past: Past, margin: float = 0.0) -> Tensor:
    """The projected gradient; the very same tensor where no old task objects. Waits for the device once.

    Args:
        gradient: ``[parameters]``, of the new task.
        past: of each old task.
        margin: gamma, least weight of every old gradient once any of them objects ("memory strength").

    Returns:
        ``[parameters]``.

    Raises:
        MethodError: a gradient is not finite.
    """
    products = torch.cat([past.gram(), past.products(gradient)[:, None]], 1).double().cpu().numpy()
    gram, linear = products[:, :-1], products[:, -1]
    counted = ~(gram.diagonal() < shortest(gradient))  # nan counts, and is found below
    if (linear[counted] >= 0).all():
        return gradient
    if not np.isfinite(products).all():
        raise MethodError("gem: gradients must be finite, found inf or nan; lower training.learning_rate")
    weights, ridge = np.zeros(len(gram)), max(RIDGE, ROUNDINGS * torch.finfo(gradient.dtype).eps)
    weights[counted] = solve_dual(gram[np.ix_(counted, counted)], linear[counted], margin, ridge)
    return past.added(gradient, torch.from_numpy(weights).to(gradient))


def shortest(gradients: Tensor) -> float:
    """The least squared length at which a gradient ``[..., parameters]`` still has a direction.

    Below it, squares of single entries that underflow may make up more than the last digit of the sum.
    """
    return gradients.shape[-1] * torch.finfo(gradients.dtype).tiny


def solve_dual(gram: np.ndarray, products: np.ndarray, margin: float, ridge: float = RIDGE) -> np.ndarray:
    """``argmin_v 1/2 v^T P v + products^T v`` subject to ``v >= margin``, float64 ``[tasks]``.

    P is ``gram`` with its diagonal times ``1 + ridge``. In units of the old gradients' lengths, so that none is too
    short to count, with v = margin + u and ``P = F^T F`` this is ``min_{u >= 0} ||F u + F^-T (products + P margin)||``.

    Args:
        gram: float64 ``[tasks, tasks]``, inner products of the old gradients, none of which is zero.
        products: float64 ``[tasks]``, inner products of the old gradients with the new one.
    """
    from scipy.optimize import nnls  # type: ignore[import-untyped]  # half a second of imports, which others do not need

    lengths = np.sqrt(gram.diagonal())
    values, vectors = np.linalg.eigh((gram + gram.T) / 2 / np.outer(lengths, lengths))
    roots = np.sqrt(np.maximum(values, 0) + ridge)[:, None]  # rounding may have made an eigenvalue negative
    factor, inverse = roots * vectors.T, vectors.T / roots
    least = margin * lengths
    solution, _ = nnls(factor, -(inverse @ (products / lengths) + factor @ least), maxiter=30 * len(gram))
    return np.asarray((solution + least) / lengths)


def project_one(gradient: Tensor, reference: Tensor) -> Tensor:
    """The gradient without its part along ``-reference``; where it has none, it is returned to the bit.

    So it is where the reference is zero, or too short to have a direction (:func:`shortest`).
    Decided on the device, which is not waited for.

    Args:
        gradient, reference: ``[parameters]``, all of them: a projection layer by layer is another method.
    """
    product, squared = gradient @ reference, reference @ reference
    least = shortest(reference)
    share = product / squared.clamp_min(least)
    return torch.where((product < 0) & (squared >= least), gradient - share * reference, gradient)
