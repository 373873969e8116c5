"""Several objectives: which points go on, what Optuna is told, and what a folder says of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sweeping import HEAD, accuracy, attempts, ledger, parsed, play

from raycl.errors import SpecError
from raycl.results.decisions import pareto, read_winner
from raycl.results.objectives import costs_of, dominates, finalists, front
from raycl.results.outcomes import Outcome
from raycl.results.standing import standings
from raycl.results.tables import comparison
from raycl.results.trackers.optuna_terms import frozen, new_study, optuna_space
from raycl.spec.space import RandInt
from raycl.spec.sweep_options import SearchConfig
from raycl.sweep.dispatch import Dispatcher
from raycl.sweep.plan import EntryPlan
from raycl.sweep.suggestions import Suggester

SWEEP = (
    HEAD
    + """
strategies:
  replay: {memory.capacity: {choice: [20, 50, 100, 400]}, training.learning_rate: {choice: [2e-4, 2e-3]}}
search: {metric: [average_accuracy, state_bytes], trials: 8, seeds: [0], finalists: {top: 3, seeds: [1]}}
final: {seeds: [10, 11]}
"""
)


@dataclass(frozen=True)
class Found:
    value: float | None
    costs: dict[str, float] = field(default_factory=dict)


def found(value: float, **costs: float) -> Found:
    return Found(value, costs)


def test_what_is_as_good_in_all_and_better_in_one_dominates() -> None:
    few, many = found(0.8, state_bytes=10.0), found(0.8, state_bytes=20.0)
    assert dominates(few, many, ["state_bytes"])
    assert not dominates(many, few, ["state_bytes"])
    assert not dominates(few, few, ["state_bytes"]), "equal points stay side by side"
    points = {
        0: found(0.9, state_bytes=40.0),
        1: found(0.7, state_bytes=10.0),
        2: found(0.8, state_bytes=40.0),
        3: found(0.7, state_bytes=20.0),
        4: found(0.85, state_bytes=25.0),
    }
    assert front(points, ["state_bytes"]) == [0, 4, 1]
    more = {key: found(own.value or 0, **own.costs, parameters=float(key)) for key, own in points.items()}
    assert front(more, ["state_bytes", "parameters"]) == [0, 4, 1]


def test_of_a_large_set_both_ends_and_even_steps_between_go_on() -> None:
    outcomes = [Outcome({"a": i}, "finished", i / 10, costs={"state_bytes": float(i)}) for i in range(9)]
    search = SearchConfig(metric=("average_accuracy", "state_bytes"))
    assert finalists(search, outcomes, range(9)) == [8, 4, 0]
    top = SearchConfig.Finalists(top=5)
    assert finalists(search.model_copy(update={"finalists": top}), outcomes, range(9)) == [8, 6, 4, 2, 0]
    assert finalists(SearchConfig(finalists=top), outcomes, range(9)) == [8, 7, 6, 5, 4], "of one objective the best"


def by_hand() -> list[tuple[int, float]]:
    """Capacity and rate of the points that no other one beats in both, on the mean of both validation seeds."""
    sweep = parsed(SWEEP)
    (entry,) = sweep.entries
    values = {}
    for capacity in (20, 50, 100, 400):
        for rate in (2e-4, 2e-3):
            point = {"memory.capacity": capacity, "training.learning_rate": rate}
            specs = [sweep.trial(entry, point, seed, "search") for seed in (0, 1)]
            values[capacity, rate] = sum(round(1000 * accuracy(spec, 4)) / 1000 for spec in specs) / 2
    free = [
        key
        for key, value in values.items()
        if not any(other[0] <= key[0] and theirs >= value and other != key for other, theirs in values.items())
    ]
    return sorted(free, key=lambda key: -values[key])


def ran(folder: Path) -> tuple[int, object]:
    sweep = parsed(SWEEP)
    book = ledger(sweep, folder)
    jobs = play(Dispatcher([EntryPlan(sweep, entry, book) for entry in sweep.entries], book, 2), book.results)
    return len(jobs), book


def test_a_pareto_set_is_kept_and_each_of_its_points_is_scored_on_the_final_seeds(tmp_path: Path) -> None:
    ran(tmp_path)
    sweep = parsed(SWEEP)
    book = ledger(sweep, tmp_path)
    (entry,) = sweep.entries
    winner = read_winner(book.results.read_json, sweep, entry)
    assert winner is not None
    kept = [(own["point"]["memory.capacity"], own["point"]["training.learning_rate"]) for own in pareto(winner)]
    expected = by_hand()
    assert 2 < len(expected) <= 4
    assert len(kept) == 3
    assert kept == [point for point in expected if point in kept], "none of them is dominated; the most accurate first"
    assert [own["state_bytes"] for own in pareto(winner)] == [1000 + 80 * capacity for capacity, _ in kept]
    assert winner["point"] == pareto(winner)[0]["point"], "the most accurate one stands for the method"
    (standing,) = standings(sweep, book.results, book.record)
    assert standing.ended
    assert len(standing.pareto) == len(kept)
    finals = {(asked.spec.memory.capacity, asked.spec.seed) for asked in standing.trials("final")}
    assert finals == {(capacity, seed) for capacity, _ in kept for seed in (10, 11)}
    table = comparison(book.results)
    (line,) = table.lines
    assert (len(line.trials), line.planned) == (2, 2), "the winner's trials, and no others"
    rows = table.pareto().to_pylist()
    assert [(row["memory.capacity"], row["state_bytes"]) for row in rows] == [
        (own[0], 1000 + 80 * own[0]) for own in kept
    ]
    for row, (capacity, rate) in zip(rows, kept, strict=True):
        point = {"memory.capacity": capacity, "training.learning_rate": rate}
        specs = [sweep.trial(entry, point, seed, "final") for seed in (10, 11)]
        assert row["average_accuracy_mean"] == pytest.approx(sum(round(1000 * accuracy(s, 4)) / 2000 for s in specs))
    assert sum("Pareto set on test data" in note for note in table.notes) == 1
    before = attempts(tmp_path)
    count, _ = ran(tmp_path)
    assert count == 0
    assert attempts(tmp_path) == before


def test_optuna_is_told_all_objectives_and_looks_for_both() -> None:
    over = {"memory.capacity": RandInt(0, 1000)}
    ended = Outcome({"memory.capacity": 5}, "finished", 0.5, costs={"state_bytes": 7.0})
    told = frozen(ended, optuna_space(over), ["state_bytes"])
    assert told.values == [0.5, 7.0]
    assert [direction.name for direction in new_study(["state_bytes"]).directions] == ["MAXIMIZE", "MINIMIZE"]
    search = SearchConfig(metric=("average_accuracy", "state_bytes"), trials=900, startup=5, defaults=False)
    suggester, points, outcomes = Suggester(over, search, "replay"), [], []
    for index in range(30):
        points.append(suggester.draw(index, outcomes if index >= 5 else (), points).point)
        capacity = int(points[-1]["memory.capacity"])
        cost = {"state_bytes": float(capacity)}
        outcomes.append(Outcome(points[-1], "finished", min(capacity, 300) / 300, costs=cost))
    late = [int(point["memory.capacity"]) for point in points[-15:]]
    assert sum(capacity <= 400 for capacity in late) > 10, "above 300 nothing is gained and bytes are lost"


def test_costs_are_those_of_a_row_and_what_nobody_counted_is_absent() -> None:
    row = {"state_bytes": 10, "buffer_bytes": 5, "parameters": 3, "gradient_examples": None, "forward_examples": 9}
    assert costs_of(row) == {"state_bytes": 15.0, "parameters": 3.0, "forward_examples": 9.0}


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("[average_accuracy]", "must hold at least 2 items"),
        ("[state_bytes, average_accuracy]", "must be a metric"),
        ("[average_accuracy, seconds]", "search.metric"),
        ("[average_accuracy, state_bytes, state_bytes]", "each once"),
    ],
)
def test_objectives_that_cannot_be_are_refused(metric: str, told: str) -> None:
    with pytest.raises(SpecError) as error:
        parsed(SWEEP.replace("[average_accuracy, state_bytes]", metric))
    assert told in str(error.value)


@pytest.mark.parametrize("more", ["pruner: {grace_tasks: 1}\n", "PROTOCOL"])
def test_nothing_is_pruned_and_no_trial_chooses_by_several_objectives(more: str) -> None:
    text = SWEEP.replace("trials: 8", "trials: 8, protocol: current_task") if more == "PROTOCOL" else SWEEP + more
    with pytest.raises(SpecError, match="of several objectives nothing is pruned"):
        parsed(text)
