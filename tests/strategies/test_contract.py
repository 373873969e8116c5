"""What every registered method must do, in every scenario that it allows."""

from __future__ import annotations

import pickle
from functools import cache
from typing import Any

import pytest
import torch
from strategies import every_method
from strategies.every_method import CASES, assert_equal_state, same_bits, stopped_after_every_task, tensors
from support import counts, evaluation_rows, finish, matrix, trainer, trial
from torch import Tensor

from raycl.catalog import catalog
from raycl.matrix import TaskRow
from raycl.models.network import Network
from raycl.spec.evaluation import DIAGNOSTICS
from raycl.spec.trial import TrialSpec
from raycl.strategies.base import Losses, Strategy
from raycl.strategies.er_ace import ERACE
from raycl.strategies.ewc import EWC
from raycl.streams.scenario import Scenario
from raycl.streams.task import Batch
from raycl.trial import checkpoint
from raycl.trial.trainer import Trainer

HIDDEN = [case for case in CASES if case.values[1] != "task"]


def small(name: str, scenario: str, **blocks: Any) -> TrialSpec:
    """A trial of half as many updates as elsewhere, where those are enough to learn: there are six of each here."""
    training = {"batch_size": 16 if name == "supsup" else 32, **blocks.pop("training", {})}
    return every_method.small(name, scenario, training=training, **blocks)


@cache
def straight(name: str, scenario: str) -> tuple[Trainer, list[TaskRow]]:
    """A trial that was never interrupted, and its rows; tests compare with it and leave it as it is."""
    running = trainer(small(name, scenario, seed=3))
    return running, finish(running)


@pytest.mark.parametrize(("name", "scenario"), CASES)
class TestEveryMethod:
    def test_resuming_after_every_task_equals_never_having_stopped(self, name: str, scenario: str) -> None:
        whole, rows = straight(name, scenario)
        resumed, resumed_rows = stopped_after_every_task(whole.trial)
        assert counts(resumed_rows) == counts(rows)
        assert_equal_state(resumed.state_dict(), whole.state_dict())

    def test_the_seed_decides_the_matrix(self, name: str, scenario: str) -> None:
        first, rows = straight(name, scenario)
        again, other = (trainer(small(name, scenario, seed=seed)) for seed in (3, 4))
        assert counts(finish(again)) == counts(rows)
        assert_equal_state(again.state_dict(), first.state_dict())
        finish(other)
        ours, theirs = tensors(first.strategy.state_dict()), tensors(other.strategy.state_dict())
        assert any(not same_bits(value, theirs[key]) for key, value in ours.items() if key in theirs)

    def test_a_checkpoint_loads_without_pickle(self, name: str, scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
        running = trainer(small(name, scenario))
        running.run_task()
        state = running.state_dict()

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("pickle was used")

        for function in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
            monkeypatch.setattr(pickle, function, refuse)
        assert_equal_state(checkpoint.decode(checkpoint.encode(state)), state)

    def test_growing_adds_units_and_keeps_what_was_there(self, name: str, scenario: str) -> None:
        running = trainer(small(name, scenario))
        running.run_task()
        strategy = running.strategy
        before = {key: value.clone() for key, value in tensors(strategy.state_dict()).items()}
        strategy.grow(1)
        after = tensors(strategy.state_dict())
        for key, value in before.items():
            if value.dim() and value.shape[1:] == after[key].shape[1:]:
                assert torch.equal(after[key][: len(value)], value), key
        trained = {id(p) for entry in strategy.trainable(1).values() for group in entry.groups for p in group["params"]}
        assert trained, "something must be trainable"

    def test_it_learns_and_says_what_it_cost(self, name: str, scenario: str) -> None:
        running, rows = straight(name, scenario)
        measured = next(row for row in rows if row.task >= 0 and row.total.any())
        assert measured.correct[measured.task] / measured.total[measured.task] > 0.8, "the task just learned"
        last = rows[-1]
        assert last.cost.updates > 0
        assert last.cost.examples > 0
        assert last.cost.parameters > 0
        assert last.cost.state_bytes > 0
        assert (last.cost.buffer_bytes > 0) == running.strategy.uses_memory

    def test_measuring_does_not_change_learning(self, name: str, scenario: str) -> None:
        """Fewer examples after tasks, and many points inside them; the state, the random generators' too, is equal."""
        seen, rows = straight(name, scenario)
        inside = {"inside": {"updates": 4, "examples": 4}, "online": True, "diagnostics": DIAGNOSTICS}
        other = trainer(small(name, scenario, seed=3, evaluation={"future_tasks": False, "max_examples": 5, **inside}))
        watched = finish(other)
        assert_equal_state(other.state_dict(), seen.state_dict())
        assert [row.cost.forward_examples for row in watched] == [row.cost.forward_examples for row in rows]
        for row in watched:
            if row.total.any():
                assert row.points is not None
                assert row.points.tasks.tolist() == list(range(row.task + 1))
                assert row.points.total.tolist() == [4] * (row.task + 1)
            told = DIAGNOSTICS if row.task >= 0 and row.total.any() and seen.strategy.diagnosable else ()
            assert row.measures.keys() & DIAGNOSTICS == set(told)


def pixels_of_all_tasks(running: Trainer) -> Tensor:
    """Evaluation inputs of every task, one task after another."""
    return torch.cat([evaluation_rows(running, task).x for task in range(running.num_tasks)])


def leaks(strategy: Strategy, x: Tensor) -> bool:
    """Whether a row's prediction depends on the rows beside it."""
    strategy.train(False)
    with torch.no_grad():
        whole = strategy.predict(x, None)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        back = torch.argsort(order)
        mixed = torch.cat([strategy.predict(rows, None) for rows in x[order].split(7)])[back]
    same = torch.isclose(whole, mixed, rtol=1e-4, atol=1e-5) | (whole == mixed)
    return not bool(same.all())


@pytest.mark.parametrize(("name", "scenario"), HIDDEN)
def test_a_hidden_task_id_stays_hidden(name: str, scenario: str) -> None:
    running, _ = straight(name, scenario)
    assert not leaks(running.strategy, pixels_of_all_tasks(running))


def test_the_leak_check_sees_a_batch_wise_decision() -> None:
    """The mutant: the unit that the whole batch prefers is raised for all of its rows."""
    running = trainer(every_method.small("naive", "class"))
    finish(running)
    network: Network = running.strategy.network

    def batch_wise(x: Tensor, task: int | None) -> Tensor:
        logits = network(x)
        return logits + 10 * torch.nn.functional.one_hot(logits.mean(0).argmax(), logits.shape[1])

    running.strategy.predict = batch_wise  # type: ignore[method-assign]
    assert leaks(running.strategy, pixels_of_all_tasks(running))


@pytest.mark.parametrize(
    ("method", "name", "scenario"),
    [
        pytest.param(EWC, "ewc", "domain", id="EWC without its past quadratics"),
        pytest.param(ERACE, "er_ace", "class", id="ER-ACE that takes old classes for unseen ones"),
    ],
)
def test_the_resume_check_sees_state_that_is_not_stored(
    method: type[Strategy], name: str, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutants: checkpoints that lack the method's own state."""
    whole, _ = straight(name, scenario)
    monkeypatch.setattr(method, "state_dict", Strategy.state_dict)
    monkeypatch.setattr(method, "load_state_dict", Strategy.load_state_dict)
    resumed, _ = stopped_after_every_task(whole.trial)
    ours, theirs = (tensors(Strategy.state_dict(running.strategy)) for running in (whole, resumed))
    assert any(not same_bits(value, theirs[key]) for key, value in ours.items())


def test_the_seed_check_sees_hidden_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: noise from a generator that the run's seed does not reach."""
    elsewhere = torch.Generator()
    elsewhere.seed()
    loss = Strategy.loss

    def noisy(self: Strategy, batch: Batch) -> Losses:
        noise = 1 + torch.rand((), generator=elsewhere)
        return {name: value * noise for name, value in loss(self, batch).items()}

    monkeypatch.setattr(Strategy, "loss", noisy)
    first, again = (trainer(small("naive", "class")) for _ in range(2))
    finish(first)
    finish(again)
    ours, theirs = tensors(first.strategy.state_dict()), tensors(again.strategy.state_dict())
    assert any(not same_bits(value, theirs[key]) for key, value in ours.items())


NAIVE_TWINS = [case for case in CASES if catalog().strategies.get(str(case.values[0])).naive_when is not None]


@pytest.mark.parametrize(("name", "scenario"), NAIVE_TWINS)
def test_without_strength_it_equals_naive_to_the_bit(name: str, scenario: str) -> None:
    options = dict(catalog().strategies.get(name).naive_when or {})
    spec = small(name, scenario, seed=3, options=options)
    method, naive = trainer(spec), trainer(small("naive", scenario, seed=3, training=heads_alike(spec)))
    rows = finish(naive)
    assert counts(finish(method)) == counts(rows)
    assert_equal_state(method.strategy.network.state_dict(), naive.strategy.network.state_dict())


def heads_alike(spec: TrialSpec) -> dict[str, Any]:
    """Options of training for a naive twin: a paper may have a full head where naive's grows."""
    own = spec.training.active_logits
    return {} if own == "auto" else {"active_logits": own}


def test_naive_forgets_what_it_is_not_shown() -> None:
    """Class-incremental naive fine-tuning keeps the last task only; more would mean that labels or masks leak."""
    assert 0.18 <= matrix(FIVE_TASKS).average_accuracy() <= 0.22


def test_the_check_on_naive_sees_a_mask_that_leaks_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: class-incremental answers among the units of the row's own task."""
    mask = Scenario.mask
    monkeypatch.setattr(Scenario, "mask", lambda self, task, policy, current: mask(self, task, "own", current))
    assert matrix(FIVE_TASKS).average_accuracy() > 0.25


FIVE_TASKS = trial("naive", "class", stream={"tasks": 5}, training={"epochs": 5})


def test_joint_is_above_every_other_method() -> None:
    training = {"epochs": 10}
    best = matrix(small("joint", "class", training=training)).average_accuracy()
    for name in ("naive", "replay", "rehearsal"):
        assert best >= matrix(small(name, "class", training=training)).average_accuracy() - 0.005
