"""Statistics of features by class, and the linear classifiers that follow from them in closed form.

Sums are kept in double precision, so that neither the order of examples nor of tasks matters. Nearest class mean:
Mensink, Verbeek, Perronnin and Csurka, "Distance-based image classification", TPAMI 2013, with the Euclidean distance.
Streaming linear discriminant analysis: Hayes and Kanan, "Lifelong machine learning with Deep Streaming Linear
Discriminant Analysis", 2020 (arXiv 1909.01520), section 3: one covariance for all classes, w_k = Lambda mu_k and
b_k = -1/2 mu_k^T Lambda mu_k with Lambda = ((1 - epsilon) Sigma + epsilon I)^-1. The nearest class mean is the case
Lambda = I: -1/2 |z - mu_k|^2 without -1/2 |z|^2, which all classes share.

Departure: Sigma is the within-class scatter over the number of examples, from the sum of z z^T. It equals that of the
whole set at once; the authors' recursion weighs each example by the count of all examples where its own class's count
is due, and equals it only in the limit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class ClassStatistics:
    """Counts and sums of features per output unit; and their second moment where a covariance is wanted.

    Args:
        features: width d of a feature vector.
        covariance: whether to keep the sum of z z^T, ``[d, d]``.
    """

    def __init__(self, features: int, covariance: bool, device: torch.device) -> None:
        self.counts = torch.zeros(0, dtype=torch.float64, device=device)
        self.sums = torch.zeros(0, features, dtype=torch.float64, device=device)
        size = features if covariance else 0
        self.moment = torch.zeros(size, size, dtype=torch.float64, device=device)

    def grow(self, units: int) -> None:
        """Add units without examples until there are so many."""
        missing = max(0, units - len(self.counts))
        self.counts = torch.cat([self.counts, self.counts.new_zeros(missing)])
        self.sums = torch.cat([self.sums, self.sums.new_zeros(missing, self.sums.shape[1])])

    def add(self, features: Tensor, units: Tensor) -> None:
        """Take in features float ``[batch, d]`` of output units int64 ``[batch]``."""
        features = features.double()
        self.counts += units.bincount(minlength=len(self.counts))
        self.sums.index_add_(0, units, features)
        if len(self.moment):
            self.moment.addmm_(features.T, features)

    def means(self) -> Tensor:
        """float64 ``[units, d]``; zero for units without examples."""
        return self.sums / self.counts.clamp(min=1)[:, None]

    def covariance(self) -> Tensor:
        """Sigma, float64 ``[d, d]``: within-class scatter over the number of examples."""
        means = self.means()
        return (self.moment - (means * self.counts[:, None]).T @ means) / self.counts.sum().clamp(min=1)

    def nearest_mean(self) -> tuple[Tensor, Tensor]:
        """Weight float64 ``[units, d]`` and bias ``[units]``; the bias of a unit without examples is minus infinity."""
        means = self.means()
        return means, self._bias(means, means)

    def discriminant(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """As :meth:`nearest_mean`, by linear discriminant analysis; ``shrinkage`` is epsilon."""
        means, covariance = self.means(), self.covariance()
        identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        weight = torch.linalg.solve((1 - shrinkage) * covariance + shrinkage * identity, means.T).T
        return weight, self._bias(weight, means)

    def _bias(self, weight: Tensor, means: Tensor) -> Tensor:
        return (-0.5 * (weight * means).sum(1)).masked_fill(self.counts == 0, float("-inf"))

    def state_dict(self) -> dict[str, Tensor]:
        return {"counts": self.counts, "sums": self.sums, "moment": self.moment}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict` into statistics of as many units."""
        self.counts.copy_(state["counts"])
        self.sums.copy_(state["sums"])
        self.moment.copy_(state["moment"])
