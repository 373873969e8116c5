"""Every method keeps within a budget, and what it declares of its updates and its phases is so."""

from __future__ import annotations

from typing import Any

import pytest
from strategies.every_method import ONE_EACH, assert_equal_state, small, stopped_after_every_task
from support import counts, trainer

from raycl.catalog import catalog
from raycl.errors import MethodError
from raycl.matrix import TaskRow
from raycl.spec.trial import TrialSpec
from raycl.strategies.base import Position, Source
from raycl.strategies.gem import GEM
from raycl.strategies.phases import Phase
from raycl.trial.budget import Allowance
from raycl.trial.trainer import Trainer

BUDGET = 700
ONE_PASS = [case for case in ONE_EACH if catalog().strategies.get(str(case.values[0])).one_pass]
OWN_LENGTH = {"gdumb", "exstream"}
"""Methods whose own options say how long a task is learned: they end there, or where the budget does."""


def watched(name: str, scenario: str, unit: str) -> tuple[list[TaskRow], int]:
    """A trial under a budget, and the dearest update of its last task."""
    running = trainer(small(name, scenario, training={"epochs": None, "budget": {unit: BUDGET}}))
    rows, dearest = [], 0
    run_phase = running._run_phase

    def run(phase: Phase, task: int, inside: Any, allowance: Allowance | None = None) -> None:
        nonlocal dearest
        run_phase(phase, task, inside, allowance)
        assert allowance is not None
        dearest = max(allowance._dearest, dearest if task == running.next_task else 0)

    running._run_phase = run  # type: ignore[method-assign]
    while not running.done:
        rows += running.run_task()
    return [row for row in rows if row.task >= 0], dearest


def check_within(name: str, scenario: str, unit: str) -> None:
    method = catalog().strategies.get(name)
    rows, dearest = watched(name, scenario, unit)
    for row in rows:
        tasks = 1 if not method.upper_bound else row.task + 1
        spent = row.cost.budget_spent
        assert spent is not None
        assert spent <= BUDGET * tasks
    left = BUDGET * tasks - spent
    if name not in OWN_LENGTH:
        phases = 3  # each may leave the end of its share
        assert left < (phases * 2 * -(-dearest // 16) if method.divisible else phases * dearest)


@pytest.mark.parametrize("unit", ["gradient_examples", "forward_examples"])
@pytest.mark.parametrize(("name", "scenario"), ONE_EACH)
def test_a_budget_is_spent_and_never_passed(name: str, scenario: str, unit: str) -> None:
    check_within(name, scenario, unit)


def check_resumed(spec: TrialSpec) -> None:
    """Stopped after every task it ends as if never stopped, and owes as much where a stream does not wait."""
    whole = trainer(spec)
    rows = [row for _ in range(whole.num_tasks) for row in whole.run_task()]
    resumed, resumed_rows = stopped_after_every_task(spec)
    assert counts(resumed_rows) == counts(rows)
    assert_equal_state(resumed.state_dict(), whole.state_dict())
    assert resumed.state_dict()["owed"] == whole.state_dict()["owed"]


@pytest.mark.parametrize(("name", "scenario"), ONE_EACH)
def test_resuming_in_the_middle_of_budgets_equals_never_having_stopped(name: str, scenario: str) -> None:
    spec = small(name, scenario, training={"epochs": None, "budget": {"gradient_examples": BUDGET}})
    check_resumed(spec)


def seen_phases(running: Trainer) -> list[list[Phase]]:
    """The phases of every task of a trial."""
    told = []
    phases = running.strategy.phases

    def asked(task: int) -> Any:
        told.append(list(phases(task)))
        return told[-1]

    running.strategy.phases = asked  # type: ignore[method-assign]
    while not running.done:
        running.run_task()
    return told


@pytest.mark.parametrize(("name", "scenario"), ONE_EACH)
def test_one_pass_over_the_rows_as_they_come_is_what_real_time_allows(name: str, scenario: str) -> None:
    told = seen_phases(trainer(small(name, scenario, training={"epochs": 1})))
    one_pass = all(len(phases) == 1 and phases[0].source == Source.CURRENT for phases in told)
    assert catalog().strategies.get(name).one_pass == one_pass


@pytest.mark.parametrize(
    ("name", "scenario"), [case for case in ONE_EACH if catalog().strategies.get(case.values[0]).one_pass]
)
def test_resuming_in_real_time_equals_never_having_stopped(name: str, scenario: str) -> None:
    spec = small(name, scenario, training={"epochs": 1, "real_time": True})
    check_resumed(spec)


class TestMistakes:
    def test_a_method_that_says_its_updates_can_be_cut_and_whose_cannot_is_found(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(GEM, "divisible", True)
        with pytest.raises(MethodError, match="must hold several updates"):
            check_within("gem", "class", "gradient_examples")

    def test_a_last_update_with_all_its_replays_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Position, "part_of", lambda self, rows: rows)
        with pytest.raises(MethodError, match="must hold several updates"):
            check_within("replay", "class", "gradient_examples")
