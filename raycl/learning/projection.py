"""The gradient nearest to a new task's that does not raise the losses of old tasks, to first order.

Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017 (arXiv 1706.08840), eq. 11:
``min_z 1/2 ||g - z||^2`` subject to ``<z, g_k> >= 0`` for every old task k. Its dual has one unknown per old task,
``min_v 1/2 v^T G G^T v + (G g)^T v`` with ``v >= margin``, and ``z = G^T v + g``. It is solved exactly, in float64, as
a non-negative least squares problem (Lawson and Hanson's active sets).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls  # type: ignore[import-untyped]
from torch import Tensor

from raycl.errors import MethodError

RIDGE = 1e-9
"""Added to the diagonal of G G^T, times its mean diagonal, so that dependent gradients leave the dual strictly convex.

Constraints hold up to ``<z, g_k> >= -ridge * v_k``. The authors add an absolute 1e-3, which grows with small gradients.
"""


def project(gradient: Tensor, past: Tensor, margin: float = 0.0) -> Tensor:
    """The projected gradient; the very same tensor where no old task objects.

    Args:
        gradient: ``[parameters]``, of the new task.
        past: ``[tasks, parameters]``, of each old task.
        margin: gamma, least weight of every old gradient once any of them objects ("memory strength").

    Returns:
        ``[parameters]``.

    Raises:
        MethodError: a gradient is not finite.
    """
    products = past @ gradient
    if bool((products >= 0).all()):
        return gradient
    gram = (past @ past.T).double().cpu().numpy()
    weights = solve_dual(gram, products.double().cpu().numpy(), margin)
    return gradient + torch.from_numpy(weights).to(past) @ past


def solve_dual(gram: np.ndarray, products: np.ndarray, margin: float) -> np.ndarray:
    """``argmin_v 1/2 v^T (gram + ridge I) v + products^T v`` subject to ``v >= margin``, float64 ``[tasks]``.

    With v = margin + u and ``gram + ridge I = L L^T`` this is ``min_{u >= 0} ||L^T u + L^-1 (products + P margin)||``.

    Args:
        gram: float64 ``[tasks, tasks]``, inner products of the old gradients.
        products: float64 ``[tasks]``, inner products of the old gradients with the new one.

    Raises:
        MethodError: the numbers are not finite.
    """
    if not (np.isfinite(gram).all() and np.isfinite(products).all()):
        raise MethodError("gem: gradients must be finite, found inf or nan; lower training.learning_rate")
    tasks = len(gram)
    matrix = (gram + gram.T) / 2 + RIDGE * max(float(np.trace(gram)) / tasks, 1e-30) * np.eye(tasks)
    factor = np.linalg.cholesky(matrix)
    linear = products + matrix @ np.full(tasks, margin)
    solution, _ = nnls(factor.T, -np.linalg.solve(factor, linear), maxiter=30 * tasks)
    return np.asarray(solution + margin)
