"""MAS as a whole: the strength of its pull, what it protects and what it asks for; and its wrong variants."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support import matrix, trainer, trial
from torch import Tensor

from raycl.errors import MethodError
from raycl.learning.quadratic import Quadratic
from raycl.strategies.base import Position
from raycl.strategies.mas import MAS, MASConfig
from raycl.streams.scenario import Scenario
from raycl.trial.trainer import Trainer


def running(scenario: str = "domain", **blocks: Any) -> Trainer:
    return trainer(trial("mas", scenario, **blocks))


def method(trainer: Trainer) -> MAS:
    assert isinstance(trainer.strategy, MAS)
    return trainer.strategy


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.strategy.network.state_dict().items()}


def check_pull() -> None:
    """The gradient of penalty * sum Omega (theta - theta*)^2 is 2 penalty Omega (theta - theta*)."""
    learning = running(options={"penalty": 3.0})
    learning.run_task()
    ours = method(learning)
    parameters = dict(ours.network.named_parameters())
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
        parameter.data += 0.5
    ours.edit_gradients(None, Position(1, "train", 0, 0, 0.0, False))  # type: ignore[arg-type]
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, 3.0 * ours.past.importance[name], rtol=1e-3, atol=1e-6)


def test_the_pull_is_that_of_the_paper() -> None:
    check_pull()


def test_half_the_pull_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: EWC's 1/2."""
    pull = Quadratic.add_gradients
    monkeypatch.setattr(
        "raycl.strategies.anchored.Quadratic.add_gradients",
        lambda self, parameters, strength: pull(self, parameters, strength / 2),
    )
    with pytest.raises(AssertionError):
        check_pull()


def test_it_forgets_less_than_naive_on_permuted_digits() -> None:
    permuted = {
        "stream": {"name": "permuted", "tasks": 3},
        "model": {"hidden": [64, 64]},
        "training": {"learning_rate": 1e-3, "batch_size": 32, "iterations": 200},
    }
    ours, naive = (matrix(trial(name, "domain", **permuted)).average_accuracy() for name in ("mas", "naive"))
    assert ours > naive + 0.02


def check_active_head() -> None:
    """In the importance of each task only the rows of its own head count."""
    learning = running("task", options={"decay": 0.0})
    for task in range(3):
        learning.run_task()
        rows = method(learning).past.importance["head.weight"].sum(1) > 0
        assert rows.tolist() == [unit // 2 == task for unit in range(2 * task + 2)]


def test_only_the_active_head_has_importance() -> None:
    check_active_head()


def test_outputs_of_all_heads_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: every unit seen so far counts as output."""
    mask = Scenario.mask
    monkeypatch.setattr(Scenario, "mask", lambda self, task, policy, current: mask(self, task, "seen", current))
    with pytest.raises(AssertionError):
        check_active_head()


def test_importance_adds_up_around_the_last_parameters() -> None:
    """Omega <- decay * Omega + Omega_t: the second task's own share is what a decay of 0 would leave."""
    found = {}
    for decay in (0.0, 0.5, 1.0):
        learning = running(options={"decay": decay})
        learning.run_task()
        first = {name: value.clone() for name, value in method(learning).past.importance.items()}
        learning.run_task()
        past = method(learning).past
        assert all(torch.equal(past.anchor[name], value) for name, value in weights(learning).items())
        found[decay] = past.importance
    for name, value in first.items():
        torch.testing.assert_close(found[0.5][name], found[0.0][name] + 0.5 * value)
        torch.testing.assert_close(found[1.0][name], found[0.0][name] + value)


def test_importance_examples_bound_the_pass() -> None:
    every, some = (running(options={"importance_examples": count}).run_task()[-1].cost for count in (None, 20))
    naive = trainer(trial("naive", "domain")).run_task()[-1].cost
    assert some.examples == naive.examples + 20
    assert every.examples == naive.examples * 3 // 2  # two epochs and one pass


def test_consolidation_reads_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    learning, blind = running(), running()
    learning.run_task()
    end_task = MAS.end_task

    def without_labels(self: MAS, task: int, data: Any) -> None:
        batches = data.batches

        def unlabelled(*arguments: Any) -> Any:
            for batch in batches(*arguments):
                batch.y.fill_(-1)
                yield batch

        monkeypatch.setattr(data, "batches", unlabelled)
        end_task(self, task, data)

    monkeypatch.setattr(MAS, "end_task", without_labels)
    blind.run_task()
    ours, theirs = method(learning).past.importance, method(blind).past.importance
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_an_infinite_importance_is_an_error_that_names_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    infinite = {"head.bias": torch.tensor([float("inf")])}
    monkeypatch.setattr("raycl.strategies.mas.output_sensitivity", lambda *arguments: infinite)
    with pytest.raises(
        MethodError, match=r"importance of parameters after task 0 must be finite .*lower penalty \(1\)"
    ):
        running().run_task()


def test_options_are_strict() -> None:
    for wrong in ({"penalty": -1}, {"penalty": 1e16}, {"penalty": "1"}, {"decay": 1.5}, {"importance_examples": 0}):
        with pytest.raises(ValidationError):
            MASConfig.model_validate_json(json.dumps(wrong))
