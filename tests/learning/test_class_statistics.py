"""Classifiers from running sums: equal to those of the whole set at once, in any order; and the mutants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from raycl.learning.class_statistics import ClassStatistics

CLASSES, FEATURES = 4, 6
Z = torch.randn(200, FEATURES, generator=torch.Generator().manual_seed(0)) @ torch.randn(
    FEATURES, FEATURES, generator=torch.Generator().manual_seed(1)
)
Y = torch.arange(200) % 7 % CLASSES
Z = Z + 5 * torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(2))[Y]


def streamed(order: Tensor, batch_size: int, covariance: bool = True) -> ClassStatistics:
    """Statistics of the set, row by row or batch by batch in an order, the units growing on the way."""
    statistics = ClassStatistics(FEATURES, covariance, torch.device("cpu"))
    for index in order.split(batch_size):
        statistics.grow(int(Y[index].max()) + 1)
        statistics.add(Z[index], Y[index])
    return statistics


def batch_lda(shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias from the whole set, with centred features."""
    z, y = Z.double().numpy(), Y.numpy()
    means = np.stack([z[y == unit].mean(0) for unit in range(CLASSES)])
    centred = z - means[y]
    covariance = centred.T @ centred / len(z)
    precision = np.linalg.inv((1 - shrinkage) * covariance + shrinkage * np.eye(FEATURES))
    return means @ precision, -0.5 * np.einsum("kd,de,ke->k", means, precision, means)


def check_streaming_equals_batch() -> None:
    for shrinkage in (1e-4, 0.3, 1.0):
        weight, bias = batch_lda(shrinkage)
        for order, size in ((torch.arange(200), 1), (Y.argsort(), 50), (torch.arange(199, -1, -1), 7)):
            found_weight, found_bias = streamed(order, size).discriminant(shrinkage)
            np.testing.assert_allclose(found_weight, weight, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(found_bias, bias, rtol=1e-6, atol=1e-9)


def test_streaming_equals_batch_discriminant_analysis() -> None:
    check_streaming_equals_batch()


class RecursionOfThePaper(ClassStatistics):
    """A mutant: each example's scatter about the running mean, weighed by the count of all examples."""

    def add(self, features: Tensor, units: Tensor) -> None:
        for row, unit in zip(features.double(), units.tolist(), strict=True):
            total = self.counts.sum()
            away = row - self.means()[unit]
            sigma = total * getattr(self, "sigma", torch.zeros(FEATURES, FEATURES).double())
            self.sigma = (sigma + total / (total + 1) * torch.outer(away, away)) / (total + 1)
            self.counts[unit] += 1
            self.sums[unit] += row

    def covariance(self) -> Tensor:
        return self.sigma


class AboutTheGrandMean(ClassStatistics):
    """A mutant: the covariance of all features, classes taken together."""

    def covariance(self) -> Tensor:
        mean = self.sums.sum(0) / self.counts.sum()
        return self.moment / self.counts.sum() - torch.outer(mean, mean)


@pytest.mark.parametrize("mutant", [RecursionOfThePaper, AboutTheGrandMean])
def test_other_covariances_are_caught(mutant: type[ClassStatistics], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ClassStatistics", mutant)
    with pytest.raises(AssertionError):
        check_streaming_equals_batch()


def test_it_decides_as_scikit_learn_does() -> None:
    """On balanced classes, where the prior drops out."""
    rows = torch.cat([Y.eq(unit).nonzero()[:28, 0] for unit in range(CLASSES)])
    statistics = ClassStatistics(FEATURES, True, torch.device("cpu"))
    statistics.grow(CLASSES)
    statistics.add(Z[rows], Y[rows])
    weight, bias = statistics.discriminant(1e-12)
    expected = LinearDiscriminantAnalysis(solver="lsqr").fit(Z[rows].double(), Y[rows]).predict(Z.double())
    assert (Z.double() @ weight.T + bias).argmax(1).tolist() == expected.tolist()


def test_the_nearest_mean_in_any_order() -> None:
    means = torch.stack([Z[Y.eq(unit)].double().mean(0) for unit in range(CLASSES)])
    nearest = torch.cdist(Z.double(), means).argmin(1)
    for order, size in ((torch.arange(200), 1), (Y.argsort(), 200)):
        statistics = streamed(order, size, covariance=False)
        weight, bias = statistics.nearest_mean()
        torch.testing.assert_close(statistics.means(), means, rtol=1e-12, atol=1e-12)
        assert torch.equal((Z.double() @ weight.T + bias).argmax(1), nearest)
        assert not statistics.state_dict()["moment"].numel()


def test_a_unit_without_examples_never_wins() -> None:
    statistics = streamed(torch.arange(200), 50)
    statistics.grow(CLASSES + 2)
    for weight, bias in (statistics.nearest_mean(), statistics.discriminant(1e-4)):
        assert weight.shape == (CLASSES + 2, FEATURES)
        assert bias.isneginf().tolist() == [False] * CLASSES + [True] * 2
