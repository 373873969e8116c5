"""What a budget buys, and which batches a busy learner misses: worked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from support import counts, finish, trainer, trial
from torch import nn

from raycl.errors import MethodError
from raycl.spec.training import BudgetConfig
from raycl.strategies.phases import Epochs, Phase, Share
from raycl.trial.budget import Allowance, TaskBudget, Ticks, Turn
from raycl.trial.meter import Meter


class Spending:
    """A meter that is told what is spent."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.layer = nn.Linear(1, 1)
        self.meter.watch_network(self.layer)

    def __call__(self, forward: int, backward: int = 0) -> None:
        """So many rows go forward, and some of them back."""
        if forward > backward:
            with torch.no_grad():
                self.layer(torch.zeros(forward - backward, 1))
        if backward:
            self.layer(torch.zeros(backward, 1)).sum().backward()


def budget(spend: Spending, limit: int, *phases: Phase, divisible: bool = True) -> TaskBudget:
    return TaskBudget(BudgetConfig(gradient_examples=limit), spend.meter, phases, divisible)


def updates(spend: Spending, allowance: Allowance, rows: int, costs: Sequence[float]) -> list[Turn]:
    """Take turns until none is left; each costs so many backward rows for every row of its batch."""
    turns = []
    for cost in costs:
        turns.append(allowance.next(rows))
        if not turns[-1].rows:
            break
        spend(round(turns[-1].rows * cost), round(turns[-1].rows * cost))
    return turns


TRAIN = Phase("train", Share(100))


class TestABudget:
    def test_the_last_update_is_cut_to_what_is_left(self) -> None:
        spend = Spending()
        own = budget(spend, 100, TRAIN)
        turns = updates(spend, own.allow(), 32, [1] * 9)
        assert [turn.rows for turn in turns] == [32, 32, 32, 4, 0]
        assert [turn.fraction for turn in turns] == [0, 0.32, 0.64, 0.96, 1]
        assert [turn.last for turn in turns] == [False, False, False, True, True]
        assert own.spent == 100

    def test_an_update_that_costs_twice_is_cut_in_proportion(self) -> None:
        spend = Spending()
        own = budget(spend, 150, TRAIN)
        assert [turn.rows for turn in updates(spend, own.allow(), 32, [2] * 9)] == [32, 32, 11, 0]
        assert own.spent == 150

    def test_where_it_cannot_be_cut_the_last_one_that_fits_ends_the_phase(self) -> None:
        spend = Spending()
        own = budget(spend, 150, TRAIN, divisible=False)
        turns = updates(spend, own.allow(), 32, [2] * 9)
        assert [(turn.rows, turn.last) for turn in turns] == [(32, False), (32, True), (0, True)]
        assert own.spent == 128

    def test_updates_that_become_dearer_stay_within_it(self) -> None:
        """A memory that fills: 32, 64, 96, ... Of 330 the fourth leaves 10, where 160 are expected."""
        spend = Spending()
        own = budget(spend, 330, TRAIN)
        turns = updates(spend, own.allow(), 32, [1, 2, 3, 4, 5])
        assert [turn.rows for turn in turns] == [32, 32, 32, 32, 2]
        assert own.spent == 330

    def test_a_single_row_is_left(self) -> None:
        spend = Spending()
        own = budget(spend, 65, TRAIN)
        assert [turn.rows for turn in updates(spend, own.allow(), 32, [1] * 9)] == [32, 32, 0]
        assert own.spent == 64

    def test_phases_divide_it_by_their_lengths_and_take_what_others_left(self) -> None:
        """Of 100, 10 go to a phase of its own length, and of the rest 2 / 3 to the first of two phases."""
        own_length, long, short = Phase("warm", Epochs(1)), Phase("a", Share(100)), Phase("b", Share(100, 0.5))
        spend = Spending()
        spend(7, 7)  # before the budget began
        own = budget(spend, 100, own_length, long, short)
        own.allow()
        spend(10, 10)
        updates(spend, own.allow(), 8, [1] * 99)
        assert own.spent == 70
        updates(spend, own.allow(), 8, [1] * 99)
        assert own.spent == 100

    def test_an_update_that_costs_more_than_all_of_it_is_an_error(self) -> None:
        spend = Spending()
        own = budget(spend, 40, TRAIN)
        updates(spend, own.allow(), 32, [2, 2])
        with pytest.raises(MethodError, match=r"budget.gradient_examples must hold several .* \(got 40, .* took 64\)"):
            own.check()

    def test_what_another_task_would_have_spent_is_an_upper_bound_s(self) -> None:
        spend = Spending()
        whole = Phase("train", Share(50).for_tasks(3))
        own = budget(spend, 50, whole)
        updates(spend, own.allow(), 32, [1] * 99)
        assert own.spent == 150


def learned(costs: Sequence[float], rows: int = 10, owed: int = 0) -> tuple[list[int], int]:
    """Which batches are learned, where an update costs so many times a plain one; and what is owed in the end."""
    spend = Spending()
    ticks = Ticks(spend.meter, owed)
    ticks.begin_task()
    taken = []
    for tick, cost in enumerate(costs):
        if ticks.takes(rows):
            taken.append(tick)
            spend(round(rows * cost), round(rows * cost))
            ticks.learned(rows)
    return taken, ticks.owed


class TestAStreamThatDoesNotWait:
    """Ghunaim et al. 2023: a method of relative cost C learns one batch in C."""

    def test_a_plain_method_learns_every_batch(self) -> None:
        assert learned([1] * 5) == ([0, 1, 2, 3, 4], 0)

    def test_one_of_twice_the_cost_every_other(self) -> None:
        assert learned([2] * 6) == ([0, 2, 4], 0)

    def test_fractions_add_up(self) -> None:
        """One and a half: two of three. 1.2: five of six."""
        assert learned([1.5] * 9)[0] == [0, 2, 3, 5, 6, 8]
        assert len(learned([1.2] * 60)[0]) == 50

    def test_time_that_is_left_is_not_saved(self) -> None:
        assert learned([0.5, 0.5, 0.5, 3, 1, 1, 1])[0] == [0, 1, 2, 3, 6]

    def test_what_was_left_undone_before_makes_batches_pass(self) -> None:
        assert learned([1] * 5, owed=60)[0] == [2, 3, 4]

    def test_a_forward_pass_counts_for_one_and_a_backward_pass_for_two(self) -> None:
        spend = Spending()
        ticks = Ticks(spend.meter)
        spend(5, 2)
        ticks.charge()
        assert ticks.owed == 5 + 2 * 2


class TestInATrial:
    def test_naive_spends_all_of_it_and_replay_half_of_its_updates(self) -> None:
        """Digits, batch 16: 1,000 rows are 62 updates of 16 and one of 8; with as many replayed rows 31 and one.

        The first update of replay's first task finds an empty memory and costs 16: 1,000 - 16 are 30 updates of 32 and
        one of 12 new rows beside 12 replayed ones.
        """
        spent = {"training": {"epochs": None, "budget": {"gradient_examples": 1000}}}
        naive = [row.cost for row in finish(trainer(trial("naive", **spent)))[1:]]
        assert [(cost.updates, cost.examples, cost.budget_spent) for cost in naive] == [(63, 1000, 1000)] * 3
        replay = [row.cost for row in finish(trainer(trial("replay", **spent)))[1:]]
        assert [(cost.updates, cost.examples, cost.budget_spent) for cost in replay] == [
            (32, 16 + 30 * 16 + 12, 1000),
            (32, 500, 1000),
            (32, 500, 1000),
        ]

    def test_passes_after_training_are_reported_beside_it(self) -> None:
        spec = trial(
            "ewc", options={"fisher": "sampled"}, training={"epochs": None, "budget": {"gradient_examples": 500}}
        )
        cost = finish(trainer(spec))[1].cost
        assert cost.budget_spent == 500
        assert cost.gradient_examples is not None
        assert cost.gradient_examples > 500

    def test_without_one_nothing_is_spent_of_it(self) -> None:
        assert finish(trainer(trial("naive")))[1].cost.budget_spent is None

    def test_epochs_of_full_batches_equal_a_budget_of_as_many(self) -> None:
        """The same updates by another word: the matrix is the same to the last bit."""
        updates = trial("naive", training={"iterations": 50})
        spent = trial("naive", training={"epochs": None, "budget": {"forward_examples": 50 * 16}})
        assert counts(finish(trainer(updates))) == counts(finish(trainer(spent)))

    def test_in_real_time_replay_learns_every_other_batch(self) -> None:
        def costs(method: str) -> list[tuple[int, int]]:
            rows = finish(trainer(trial(method, training={"epochs": 1, "real_time": True})))[1:]
            return [(row.cost.updates, row.cost.examples) for row in rows]

        plain = [row.cost for row in finish(trainer(trial("naive", training={"epochs": 1})))[1:]]
        assert costs("naive") == [(cost.updates, cost.examples) for cost in plain]
        halves = [(-(-cost.updates // 2)) for cost in plain]
        assert [updates for updates, _ in costs("replay")] == pytest.approx(halves, abs=1)

    def test_in_real_time_work_after_a_task_makes_the_next_one_miss_its_start(self) -> None:
        """Sampled Fisher information: one pass forward and back over all rows, as many ticks as the task had."""

        def updates(method: str) -> list[int]:
            spec = trial(
                method,
                options={} if method == "naive" else {"fisher": "sampled"},
                training={"epochs": 1, "real_time": True},
            )
            return [row.cost.updates for row in finish(trainer(spec))[1:]]

        assert updates("ewc")[0] == updates("naive")[0]
        assert updates("ewc")[1] <= 1

    def test_real_time_that_nobody_is_short_of_changes_nothing(self) -> None:
        once, real = (trial("naive", training={"epochs": 1, "real_time": flag}) for flag in (False, True))
        assert counts(finish(trainer(once))) == counts(finish(trainer(real)))
