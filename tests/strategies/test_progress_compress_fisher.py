"""What holds progress and compress's knowledge base: its own Fisher information, normalised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from strategies.progress_compress_trials import method, running
from support import finish
from torch import Tensor

from raycl.learning.fisher import diagonal_fisher
from raycl.strategies.base import TaskData
from raycl.strategies.progress_compress import ProgressCompress, _normalised

# -- what holds the base ---------------------------------------------------------------------------------------------


def check_fisher(scenario: str) -> None:
    """After each task, F <- decay * F + that of the base on the task, of norm 1, around the base as it stands."""
    learning = running(scenario, options={"online_decay": 0.5})
    strategy, held = method(learning), {}
    original = strategy.end_task

    def end_task(task: int, data: TaskData) -> None:
        original(task, data)
        policy = strategy.context.scenario
        mask = policy.mask
        own = diagonal_fisher(
            strategy.network,
            data.batches(50),
            lambda batch: mask(batch.task, policy.policy, task),
            "exact",
            torch.Generator(),
        )
        norm = torch.cat([value.flatten() for value in own.values()]).norm()
        for name, value in own.items():
            expected = value / norm
            if name in held:
                expected[: len(held[name])] += 0.5 * held[name]
            torch.testing.assert_close(strategy.past.importance[name], expected, rtol=1e-4, atol=1e-8)
            assert torch.equal(strategy.past.anchor[name], dict(strategy.network.named_parameters())[name])
            held[name] = strategy.past.importance[name].clone()

    strategy.end_task = end_task  # type: ignore[method-assign]
    finish(learning)


@pytest.mark.parametrize("scenario", ["task", "domain"])
def test_the_base_is_held_by_its_own_fisher_information(scenario: str) -> None:
    check_fisher(scenario)


def test_the_fisher_information_of_the_active_column_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_the_active(network: torch.nn.Module, *others: Any) -> dict[str, Tensor]:
        shapes = dict(network.named_parameters())
        active = diagonal_fisher(strategies[-1].active.network, *others)
        return {name: active[name][: len(p)] for name, p in shapes.items()}

    strategies: list[ProgressCompress] = []
    original = ProgressCompress.__init__

    def remembered(self: ProgressCompress, *arguments: Any) -> None:
        original(self, *arguments)
        strategies.append(self)

    monkeypatch.setattr(ProgressCompress, "__init__", remembered)
    monkeypatch.setattr("raycl.strategies.progress_compress.diagonal_fisher", of_the_active)
    with pytest.raises(AssertionError):
        check_fisher("domain")


def test_fisher_information_that_is_not_normalised_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.progress_compress._normalised", dict)
    with pytest.raises(AssertionError):
        check_fisher("domain")


def check_small_fisher(normalised: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """F = s (3, 4) over two parameters: (0.6, 0.8) whatever s is, but for 0."""
    for scale in (1e-37, 1e-25, 1e-19, 1.0, 1e18):
        found = normalised({"a": torch.tensor([3 * scale]), "b": torch.tensor([4 * scale, 0.0])})
        assert torch.cat([found["a"], found["b"]]).tolist() == pytest.approx([0.6, 0.8, 0.0])
    assert not normalised({"a": torch.zeros(2)})["a"].any()


def test_fisher_information_whose_square_underflows_has_a_norm_of_one_too() -> None:
    check_small_fisher(_normalised)


def test_a_norm_that_underflows_is_caught() -> None:
    """The mutant: F of 1e-25 is divided by the least float, and becomes 1e13."""
    tiny = torch.finfo().tiny

    def floored(fisher: dict[str, Tensor]) -> dict[str, Tensor]:
        norm = torch.stack([values.norm() for values in fisher.values()]).norm()
        return {name: values / norm.clamp(min=tiny) for name, values in fisher.items()}

    with pytest.raises(AssertionError):
        check_small_fisher(floored)
