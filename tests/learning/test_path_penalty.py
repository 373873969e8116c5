"""The limited pull of AR1: which gradient counts, how far importances go, what is left out; and wrong variants."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raycl.learning.path_integral import PathIntegral
from raycl.learning.path_penalty import PathPenalty, PathPenaltyOptions, without_norms
from raycl.learning.quadratic import StepSizes
from raycl.spec.training import TrainingConfig
from raycl.strategies.base import Trainable
from raycl.trial.optimizers import OptimizerSet

LIMIT = 0.5
OPTIONS = PathPenaltyOptions(penalty=10.0, damping=0.01, importance_scale=1.0, max_importance=LIMIT)
OPTIMIZERS = OptimizerSet(TrainingConfig())  # of no parameters: only the proximal step asks them


def updated(pull: PathPenalty, theta: nn.Parameter, gradient: Tensor, move: Tensor) -> Tensor:
    """One update that moves ``theta`` by ``move``, whatever the gradient. Returns the gradient with the pull."""
    theta.grad = gradient.clone()
    pull.before_update()
    with torch.no_grad():
        theta += move
    pull.after_update()
    return theta.grad.clone()


def check_pull(kind: type[PathPenalty]) -> None:
    """Two tasks of one update each, by hand."""
    theta = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    gradient, move = torch.tensor([-1.0, -0.02, 1.0, 0.0]), torch.full((4,), 0.1)
    pull = kind(OPTIONS, OPTIMIZERS)
    pull.begin({"theta": theta})
    assert torch.equal(updated(pull, theta, gradient, move), gradient), "the first task is free"
    pull.end()
    gain = (0.1 * -gradient).clamp(min=0) / (0.1**2 + 0.01)
    torch.testing.assert_close(pull.past.importance["theta"], gain.clamp(max=LIMIT))
    pull.begin({"theta": theta})
    start = theta.detach().clone()
    with torch.no_grad():
        theta += 1
    found = updated(pull, theta, gradient, move)
    torch.testing.assert_close(found, gradient + 2 * 10.0 * gain.clamp(max=LIMIT) * (start + 1 - start))
    pull.end()
    more = (0.1 * -gradient).clamp(min=0) / (1.1**2 + 0.01)
    torch.testing.assert_close(pull.past.importance["theta"], (gain + more).clamp(max=LIMIT))
    assert torch.equal(pull.past.anchor["theta"], theta.detach())


def test_two_tasks_by_hand() -> None:
    check_pull(PathPenalty)


class RecordsThePull(PathPenalty):
    """A mutant: the path sees the gradient of the pull."""

    def before_update(self) -> None:
        assert self._path is not None
        self.past.add_gradients(self._parameters, 2 * self._options.penalty)
        self._path.before_update()


class Unlimited(PathPenalty):
    """A mutant: importances have no upper limit."""

    def __init__(self, options: PathPenaltyOptions, optimizers: StepSizes) -> None:
        super().__init__(options.model_copy(update={"max_importance": 1e9}), optimizers)


class Repels(PathPenalty):
    """A mutant: parameters that raised the loss are pushed away."""

    def begin(self, parameters: dict[str, Tensor]) -> None:  # type: ignore[override]
        class Unclamped(PathIntegral):
            def importance(self, damping: float, clamp: bool) -> dict[str, Tensor]:
                return super().importance(damping, clamp=False)

        super().begin(parameters)
        self._path = Unclamped(parameters)


class HalvesThePull(PathPenalty):
    """A mutant: a factor 1/2 that the paper does not have."""

    def __init__(self, options: PathPenaltyOptions, optimizers: StepSizes) -> None:
        super().__init__(options.model_copy(update={"penalty": options.penalty / 2}), optimizers)


@pytest.mark.parametrize("mutant", [RecordsThePull, Unlimited, Repels, HalvesThePull])
def test_wrong_pulls_are_caught(mutant: type[PathPenalty]) -> None:
    with pytest.raises(AssertionError):
        check_pull(mutant)


def check_proximal_pull(kind: type[PathPenalty]) -> None:
    """By hand: r = .1, s = 2 * 10, F = .5: x = 1, half of the way back to the anchor after the step of the task."""
    theta = nn.Parameter(torch.tensor([1.0]))
    optimizers = OptimizerSet(TrainingConfig(optimizer="sgd", learning_rate=0.1))
    optimizers.build({"network": Trainable.of([theta])})
    pull = kind(OPTIONS.model_copy(update={"penalty_step": "proximal"}), optimizers)
    pull.begin({"theta": theta})
    updated(pull, theta, -torch.ones(1), torch.tensor([0.1]))
    pull.end()
    assert pull.past.importance["theta"].item() == LIMIT
    pull.begin({"theta": theta})
    theta.grad = torch.tensor([-2.0])
    pull.before_update()
    assert theta.grad.item() == -2.0
    optimizers.step()
    pull.after_update()
    assert theta.item() == pytest.approx(1.1 + 0.2 / 2)
    pull.end()
    assert pull.past.importance["theta"].item() == LIMIT
    assert pull._path is None


class ForgetsTheTwo(PathPenalty):
    """A mutant: the paper's penalty has no 1/2, so the pull has a 2."""

    def after_update(self) -> None:
        if self._path is not None and self.pulls("proximal"):
            self.past.pull(self._parameters, self._options.penalty, self._optimizers)


def test_a_proximal_pull_by_hand() -> None:
    check_proximal_pull(PathPenalty)
    with pytest.raises(AssertionError):
        check_proximal_pull(ForgetsTheTwo)


def test_without_a_penalty_nothing_is_kept() -> None:
    theta = nn.Parameter(torch.ones(2))
    pull = PathPenalty(PathPenaltyOptions(penalty=0.0), OPTIMIZERS)
    pull.begin({"theta": theta})
    assert torch.equal(updated(pull, theta, torch.ones(2), torch.ones(2)), torch.ones(2))
    pull.end()
    assert pull.state_dict() == {"importance": {}, "anchor": {}}


def test_state_comes_back() -> None:
    theta = nn.Parameter(torch.ones(2))
    pull, again = PathPenalty(OPTIONS, OPTIMIZERS), PathPenalty(OPTIONS, OPTIMIZERS)
    pull.begin({"theta": theta})
    updated(pull, theta, -torch.ones(2), torch.ones(2))
    pull.end()
    again.load_state_dict(pull.state_dict(), torch.device("cpu"))
    assert torch.equal(again.past.importance["theta"], pull.past.importance["theta"])


def test_norm_layers_are_left_out_wherever_they_stand() -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    module = nn.Sequential(block, nn.Flatten(), nn.Linear(4, 4), nn.LayerNorm(4), nn.BatchNorm1d(4))
    assert set(without_norms(module)) == {"0.0.weight", "0.0.bias", "2.weight", "2.bias"}
    assert set(without_norms(module[2])) == {"weight", "bias"}
    assert without_norms(module)["2.weight"] is module[2].weight
