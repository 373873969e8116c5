"""Searches that are simulated on a table: what they choose and what it scores, worked by hand, and beside live ones."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support import local_source
from sweeping import HEAD, decisions, parsed
from typer.testing import CliRunner

from raycl.cli.app import app
from raycl.errors import SpecError, StoreError, UnknownName
from raycl.matrix import AccuracyMatrix
from raycl.results.landscapes import Landscape, Landscapes, Measured, read_table
from raycl.results.packing import pack
from raycl.results.reading import read_trials
from raycl.results.store import ResultsFolder
from raycl.spec.points import Point
from raycl.sweep.over_table import Answers, NearestSearch, NearestSuggester
from raycl.sweep.run import run_sweep
from raycl.sweep.simulate import simulate, summary
from raycl.trial.session import TrialSession

BRIEF = HEAD.replace("tasks: 5", "tasks: 3, classes_per_task: 2").replace("iterations: 20", "iterations: 6")
METHODS = """
strategies:
  naive: {}
  ewc: {penalty: {choice: [1, 100, 10000, 1000000]}, training.learning_rate: {choice: [1e-3, 1e-2, 1e-1]}}
"""
TABLE = BRIEF + METHODS + "table: {points: 12, seeds: [0, 1]}\n"
MADE = (
    BRIEF.replace("learning_rate: 2e-3, ", "")
    + """
strategies:
  ewc: {penalty: {loguniform: [1, 1e4]}}
table: {points: 5, seeds: [0, 1, 2]}
"""
)
PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 12 points of a space, with two seeds."""
    path = tmp_path_factory.mktemp("table") / "results"
    assert run_sweep(parsed(TABLE), path, backend="here", trackers=()).complete
    return path


def measured(validation: Sequence[Sequence[float]], test: float, done: int = 2, reason: str = "") -> Measured:
    """A trial of two tasks: validation accuracies by row, and the last row of test accuracies, all equal."""
    nan = float("nan")
    rows = AccuracyMatrix.from_array([[*row, nan][:2] for row in validation])
    return Measured(done, reason, rows, AccuracyMatrix.from_array([[nan, nan], [test, test]]))


def made(values: Mapping[float, tuple[float, float, float]]) -> Landscapes:
    """Of each penalty the first task's accuracy, the average after the second, and the test accuracy, of all seeds."""
    sweep = parsed(MADE)
    found: list[tuple[Point, str, Measured]] = []
    for penalty, (first, average, test) in values.items():
        found += [({"penalty": penalty}, str(seed), measured([[first], [average] * 2], test)) for seed in range(3)]
    return Landscapes(sweep, {"ewc": Landscape.of(sweep.entry("ewc"), found, 2)})


WORKED = made(
    {
        1.0: (0.9, 0.3, 0.31),
        10.0: (0.9, 0.4, 0.42),
        100.0: (0.9, 0.7, 0.60),
        1000.0: (0.9, 0.6, 0.65),
        10000.0: (0.8, 0.5, 0.50),
    }
)


def only(table: pa.Table) -> dict[str, Any]:
    (row,) = table.to_pylist()
    return dict(row)


def test_all_points_by_the_end_of_training() -> None:
    row = only(simulate(WORKED, trials=9, repeats=1))
    assert json.loads(row["point"]) == {"penalty": 100.0}
    assert (row["validation"], row["test"], row["best"]) == (0.7, 0.6, 0.65)
    assert row["regret"] == pytest.approx(0.05)
    assert (row["trials"], row["task_trainings"], row["tied"]) == (5, 10, 0)
    assert (row["search_seeds"], row["scored_seeds"], row["inert"]) == (["0"], ["1", "2"], [])


def test_after_the_first_task_a_penalty_has_done_nothing_and_the_first_of_equal_points_wins() -> None:
    """Four of five points have 0.9: the one that was suggested first wins, which is the one nearest to the default."""
    row = only(simulate(WORKED, protocol="first_tasks=1", trials=5, repeats=1))
    assert row["validation"] == 0.9
    assert (row["suggestion"], row["tied"]) == (0, 3)
    assert row["inert"] == ["penalty"]
    assert (row["trials"], row["task_trainings"]) == (5, 5), "trials stop after the task"
    assert json.loads(row["point"])["penalty"] in (1.0, 10.0, 100.0, 1000.0)
    assert (
        row["test"]
        == dict(zip(PENALTIES, (0.31, 0.42, 0.60, 0.65, 0.50), strict=True))[json.loads(row["point"])["penalty"]]
    ), "scored after the whole stream"


def test_a_budget_ends_a_search_before_the_trial_that_it_does_not_pay() -> None:
    """A trial costs two trainings: seven pay three trials, and one pays none."""
    row = only(simulate(WORKED, budget=7, repeats=1))
    assert (row["trials"], row["task_trainings"]) == (3, 6)
    whole = only(simulate(WORKED, trials=5, repeats=1, generation=1, startup=5))
    assert whole["trials"] == 5
    nothing = only(simulate(WORKED, budget=1, repeats=1))
    assert (nothing["trials"], nothing["point"], nothing["test"]) == (0, None, None)
    assert summary(simulate(WORKED, budget=1, repeats=2)).to_pylist()[0]["unanswered"] == 2


def test_a_pruned_trial_costs_the_tasks_that_it_learned() -> None:
    """From the second suggestion on each is compared with the best of those before it: only better firsts go on."""
    table = made({penalty: (0.9 - index / 10, 0.5, 0.5) for index, penalty in enumerate(PENALTIES)})
    row = only(
        simulate(
            table,
            trials=5,
            generation=1,
            startup=1,
            sampler="random",
            repeats=1,
            pruner={"quantile": 1.0, "grace_tasks": 1, "min_trials": 1},
        )
    )
    plan = searched(table, trials=5, generation=1, startup=1, sampler="random")
    firsts = [0.9 - PENALTIES.index(point["penalty"]) / 10 for point in plan]
    pruned = sum(first < max(firsts[:index]) for index, first in enumerate(firsts) if index)
    assert pruned
    assert (row["pruned"], row["task_trainings"]) == (pruned, 2 * (5 - pruned) + pruned)


def searched(table: Landscapes, **search: Any) -> list[Point]:
    """The points of a search without a pruner, in order."""
    text = MADE.split("table:")[0] + f"search: {json.dumps({'seeds': [0], **search})}\n"
    plan = NearestSearch(parsed(text), table.methods["ewc"], Answers(table.methods["ewc"], 2, "average_accuracy"))
    assert plan.wanted() is None
    return [dict(outcome.point) for outcome in plan.outcomes]


def test_every_point_of_a_search_is_one_of_the_table_and_none_comes_twice() -> None:
    for sampler in ("tpe", "random", "qmc"):
        found = [point["penalty"] for point in searched(WORKED, trials=5, sampler=sampler, generation=2, startup=2)]
        assert sorted(map(float, found)) == list(PENALTIES)


def test_a_suggestion_is_moved_to_the_nearest_unused_point() -> None:
    """On a logarithm 40 lies nearer to 100 than to 10; once that is used, nearer to 10 than to 1000."""
    method = WORKED.methods["ewc"]
    assert method.points[method.nearest({"penalty": 40.0}, ())] == {"penalty": 100.0}
    assert method.points[method.nearest({"penalty": 40.0}, [{"penalty": 100.0}])] == {"penalty": 10.0}
    halfway = method.nearest({"penalty": float(np.sqrt(10.0) * 10)}, ())
    assert method.points[halfway]["penalty"] in (10.0, 100.0)
    used = [{"penalty": value} for value in PENALTIES[1:]]
    assert method.points[method.nearest({"penalty": 1e4}, used)] == {"penalty": 1.0}


def test_values_of_a_choice_are_equal_or_apart_by_the_whole_cube(folder: Path) -> None:
    """From (100, 0.1) any other penalty is as far as any other rate, however many choices lie between."""
    method = read_table(folder).methods["ewc"]
    at = {"penalty": 100, "training.learning_rate": 0.1}
    rates = [{**at, "training.learning_rate": rate} for rate in (1e-3, 1e-2, 1e-1)]
    penalties = [{**at, "penalty": penalty} for penalty in (1, 10000, 1000000)]
    assert method.points[method.nearest(at, ())] == at
    for left in (*rates[:2], *penalties):
        used = [point for point in (*rates, *penalties) if point != left]
        assert method.points[method.nearest(at, used)] == left


def test_the_default_is_moved_too_and_comes_first() -> None:
    """A first point that lies between the table's would otherwise never be known, and come again and again."""
    sweep = parsed(MADE.split("table:")[0] + "search: {trials: 3, seeds: [0]}\n")
    method = WORKED.methods["ewc"]
    assert sweep.search is not None
    suggester = NearestSuggester(
        method, sweep.search, [({"penalty": 40.0}, "defaults"), ({"penalty": 41.0}, "enqueued")]
    )
    first = suggester.draw(0)
    second = suggester.draw(1, (), [first.point])
    third = suggester.draw(2, (), [first.point, second.point])
    assert [(one.point["penalty"], one.how) for one in (first, second)] == [(100.0, "defaults"), (10.0, "enqueued")]
    assert third.how == "start"


def test_a_trial_that_fails_late_answers_a_protocol_that_looks_early() -> None:
    sweep = parsed(MADE)
    trials = [({"penalty": 1.0}, str(seed), measured([[0.9], [np.nan] * 2], np.nan, 1, "NaN")) for seed in range(3)]
    trials += [({"penalty": 10.0}, str(seed), measured([[0.8], [0.5] * 2], 0.4)) for seed in range(3)]
    table = Landscapes(sweep, {"ewc": Landscape.of(sweep.entry("ewc"), trials, 2)})
    early = only(simulate(table, protocol="first_tasks=1", repeats=1))
    assert (early["validation"], early["failed"], early["test"]) == (0.9, 0, None)
    late = only(simulate(table, repeats=1))
    assert (late["validation"], late["failed"], late["test"], late["task_trainings"]) == (0.5, 1, 0.4, 3)


def test_search_seeds_take_turns_or_are_averaged() -> None:
    sweep = parsed(MADE)
    accuracies = {1.0: (0.9, 0.2, 0.5), 10.0: (0.4, 0.8, 0.5)}
    trials = [
        ({"penalty": penalty}, str(seed), measured([[0.5], [value] * 2], value / 2))
        for penalty, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    table = Landscapes(sweep, {"ewc": Landscape.of(sweep.entry("ewc"), trials, 2)})
    rows = simulate(table, repeats=4, trials=2).to_pylist()
    assert [row["search_seeds"] for row in rows] == [["0"], ["1"], ["2"], ["0"]]
    assert [json.loads(row["point"])["penalty"] for row in (rows[0], rows[1])] == [1.0, 10.0]
    assert rows[0]["test"] == pytest.approx((0.1 + 0.25) / 2), "on the seeds that the search has not seen"
    both = only(simulate(table, repeats=1, trials=2, search_seeds=[0, 1]))
    assert json.loads(both["point"]) == {"penalty": 10.0}
    assert both["validation"] == pytest.approx(0.6)
    assert both["task_trainings"] == 8, "two points, two seeds, two tasks"
    assert both["scored_seeds"] == ["2"]


def test_means_have_t_intervals() -> None:
    head = {"strategy": "ewc", "search_seeds": ["0"], "scored_seeds": ["1"], "inert": [], "trials": 1}
    values = [{"test": 0.1, "tied": 0}, {"test": 0.2, "tied": 2}, {"test": 0.3, "tied": 0}]
    rows = [{**head, "repeat": index, "task_trainings": 5, **value} for index, value in enumerate(values)]
    row = summary(pa.Table.from_pylist(rows, schema=simulate(WORKED, repeats=1).schema)).to_pylist()[0]
    assert row["test"] == pytest.approx(0.2)
    assert row["test_half_width"] == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-5)
    assert row["tied"] == pytest.approx(1 / 3)
    assert (row["task_trainings"], row["task_trainings_half_width"]) == (5, None), "equal values have no spread"
    assert row["regret"] is None
    assert summary(simulate(WORKED, repeats=1)).to_pylist()[0]["test_half_width"] is None


# -- beside live searches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "pruner"),
    [
        ("seed: 0, sampler: tpe", None),
        ("seed: 3, sampler: tpe", None),
        ("seed: 1, sampler: random", None),
        ("seed: 2, sampler: tpe", {"quantile": 0.5, "grace_tasks": 1, "min_trials": 2}),
        ("seed: 4, sampler: gp", None),
    ],
)
def test_a_simulated_search_is_the_live_one_to_the_last_bit(
    folder: Path, tmp_path: Path, search: str, pruner: dict[str, Any] | None
) -> None:
    text = BRIEF + METHODS + f"search: {{trials: 8, generation: 2, startup: 3, seeds: [1], {search}}}\n"
    text += f"pruner: {json.dumps(pruner)}\n" if pruner else ""
    sweep = parsed(text)
    assert run_sweep(sweep, tmp_path / "live", backend="here", trackers=()).complete
    told = decisions(tmp_path / "live")
    suggestions = [told[path] for path in sorted(told) if path.startswith("suggestions/ewc")]
    (winner,) = (told[path] for path in told if path.startswith("winners/ewc"))

    method = read_table(folder).methods["ewc"]
    plan = NearestSearch(sweep, method, Answers(method, 3, "average_accuracy"))
    assert plan.wanted() is None
    assert [job.spec.point for (job,) in plan.trials] == [own["point"] for own in suggestions]
    assert [{str(task): cut for task, cut in job.cutoffs.items()} for (job,) in plan.trials] == [
        own["cutoffs"] for own in suggestions
    ]
    assert {own["how"] for own in suggestions} & {"sampler", "left"}, "not a space that is tried whole"
    live = {trial["trial"]: trial for trial in read_trials(tmp_path / "live").to_pylist()}
    own = [live[job.spec.hash] for (job,) in plan.trials]
    assert [outcome.status for outcome in plan.outcomes] == [trial["status"] for trial in own]
    finished = [(outcome.value, trial["value"]) for outcome, trial in zip(plan.outcomes, own, strict=True)]
    assert all(ours == theirs for ours, theirs in finished if ours is not None)

    options = dict(part.split(": ") for part in search.split(", "))
    row = only(
        simulate(
            folder,
            trials=8,
            generation=2,
            startup=3,
            repeats=1,
            search_seeds=["1"],
            strategy="ewc",
            pruner=pruner,
            seed=int(options["seed"]),
            sampler=options["sampler"],
        )
    )
    assert json.loads(row["point"]) == winner["point"]
    assert (row["suggestion"], row["validation"]) == (winner["index"], winner["value"])
    assert row["task_trainings"] == sum(trial["tasks_done"] for trial in own)
    assert bool(row["pruned"]) == bool(pruner)


def test_the_first_tasks_of_a_table_are_a_trial_that_was_stopped(folder: Path, tmp_path: Path) -> None:
    sweep = parsed(BRIEF + METHODS + "search: {trials: 8}\nevaluation: {search: all}\n")
    point = {"penalty": 100, "training.learning_rate": 0.01}
    spec = sweep.trial(sweep.entry("ewc"), point, 1, "search")
    store = ResultsFolder.create(tmp_path / "one", sweep.dumps(), sweep.hash).trial(spec)
    session = TrialSession(local_source(spec.stream, spec.seed), store)
    method = read_table(folder).methods["ewc"]
    for tasks in (1, 2):
        stopped = session.step().metric
        record = Answers(method, tasks, "average_accuracy").record(spec)
        assert record is not None
        assert record.under({}) == record.verdict
        assert record.verdict.value == stopped
        assert record.curve[tasks - 1] == stopped
        assert max(record.curve) == tasks - 1, "later tasks are not known"
    session.close()


def test_a_pack_answers_as_its_folder_does(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "pack")
    for protocol in ("end_of_training", "first_tasks=2"):
        ours, packed = (
            simulate(place, protocol=protocol, trials=5, repeats=6) for place in (folder, tmp_path / "pack")
        )
        assert ours.equals(packed)
    assert set(ours["strategy"].to_pylist()) == {"naive", "ewc"}
    naive = next(row for row in ours.to_pylist() if row["strategy"] == "naive")
    assert (naive["trials"], naive["task_trainings"], naive["regret"]) == (0, 0, 0), "there is nothing to search"


def test_the_command_prints_a_line_for_each_method(folder: Path) -> None:
    asked = ["--trials", "4", "--repeats", "3", "--protocol", "first_tasks=1", "--search-seeds", "1"]
    result = CliRunner().invoke(app, ["simulate", str(folder), *asked])
    assert result.exit_code == 0, result.output
    assert "ewc" in result.output
    assert "naive" in result.output
    assert "Means over 3 searches" in result.output
    assert "ewc: penalty cannot act so early" in result.output
    pruned = [*asked[:4], "--pruner", "quantile=.5,grace_tasks=2", "--strategy", "ewc", "--budget", "9"]
    result = CliRunner().invoke(app, ["simulate", str(folder), *pruned])
    assert result.exit_code == 0, result.output
    assert "naive" not in result.output


def test_the_benchmark_of_samplers_takes_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all five points are tried, every sampler chooses penalty 100, which has 0.6 where the best has 0.65."""
    file = Path(__file__).parents[2] / "benchmarks" / "samplers.py"
    found = importlib.util.spec_from_file_location("samplers", file)
    assert found is not None
    assert found.loader is not None
    samplers = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "samplers", samplers)
    found.loader.exec_module(samplers)
    monkeypatch.setattr(samplers, "PART", 1.0)
    regrets = samplers.over_table(WORKED, 2)
    assert set(regrets) == set(samplers.SAMPLERS)
    for regret in regrets.values():
        assert regret == pytest.approx([5.0, 5.0])
    monkeypatch.setattr(samplers, "TRIALS", 1)
    possible = [round(65 - 100 * score, 9) for score in (0.31, 0.42, 0.60, 0.65, 0.50)]
    for regret in samplers.over_table(WORKED, 3).values():
        assert {round(value, 9) for value in regret} <= set(possible), "of a single point"
    assert "paired" in (samplers.__doc__ or "")


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ({"protocol": "last_task"}, "protocol: must be end_of_training, or first_tasks=1"),
        ({"protocol": "first_tasks=0"}, "first_tasks: must be at least 1"),
        ({"protocol": "first_tasks=3"}, "protocol: the stream has 2 tasks"),
        ({"search_seeds": [0, 1, 2]}, "search_seeds: must leave a seed of the table, 0, 1, 2"),
        ({"search_seeds": [7]}, "search_seeds: must leave a seed of the table, 0, 1, 2"),
        ({"sampler": "grid"}, "sampler: must be"),
        ({"pruner": {"scheduler": "asha"}}, "pruner.scheduler: depends on which trials"),
        ({"pruner": {"grace_tasks": 2}}, "pruner.grace_tasks: no trial is ever stopped"),
    ],
)
def test_what_a_table_cannot_answer_is_refused(asked: dict[str, Any], rule: str) -> None:
    with pytest.raises(SpecError) as error:
        simulate(WORKED, **asked)
    assert rule in str(error.value)


def test_what_is_no_table_is_refused(folder: Path, tmp_path: Path) -> None:
    sweep = parsed(BRIEF + METHODS + "search: {trials: 2}\n")
    ResultsFolder.create(tmp_path / "search", sweep.dumps(), sweep.hash)
    with pytest.raises(StoreError, match="is no table"):
        read_table(tmp_path / "search")
    with pytest.raises(StoreError, match="no results folder"):
        read_table(tmp_path / "nowhere")
    with pytest.raises(UnknownName, match="did you mean 'ewc'"):
        simulate(folder, strategy="ewcc")
