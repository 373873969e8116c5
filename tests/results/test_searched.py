"""What a search came to: its winner, what was spent, and whether the winner lies at an end of its range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from results.made_results import HEAD, Made

from raycl.results.decisions import suggestion_path
from raycl.results.searched import end_of
from raycl.results.tables import comparison
from raycl.spec.space import find


@pytest.mark.parametrize(
    ("distribution", "lower", "inside", "upper"),
    [
        ({"uniform": [0.0, 1.0]}, [0.0, 0.05], [0.06, 0.5, 0.94], [0.95, 1.0]),
        ({"loguniform": [1.0, 1e4]}, [1.0, 1.58], [1.6, 100.0, 6300.0], [6310.0, 1e4]),
        ({"randint": [10, 111]}, [10, 14], [15, 105], [106, 110]),
        ({"lograndint": [1, 10001]}, [1], [2, 5900], [6310, 10000]),
        ({"quniform": [0.0, 1.0, 0.25]}, [0.0], [0.25, 0.75], [1.0]),
        ({"choice": [50, 100, 200]}, [50], [100], [200]),
        ({"choice": [200, 100, 50]}, [50], [100], [200]),
        ({"choice": [100, 50, 200]}, [], [50, 100, 200], []),
        ({"choice": ["a", "b", "c"]}, [], ["a", "c"], []),
        ({"choice": [1, 2, "auto"]}, [], [1, 2, "auto"], []),
        ({"choice": [50, 100]}, [], [50, 100], []),
        ({"randint": [0, 2]}, [], [0, 1], []),
        ({"choice": [False, True]}, [], [False, True], []),
        ({"choice": [1, 2, 3], "when": {"mode": "online"}}, [1], [2], [3]),
    ],
)
def test_ends_in_the_scale_of_the_distribution(distribution: Any, lower: Any, inside: Any, upper: Any) -> None:
    """A twentieth of the range: of loguniform(1, 1e4) a fifth of a decade, up to 10 ** 0.2 = 1.585."""
    found = find(distribution)
    assert found is not None
    assert {value: end_of(found, value) for value in (*lower, *inside, *upper)} == {
        **dict.fromkeys(lower, "lower"),
        **dict.fromkeys(inside, ""),
        **dict.fromkeys(upper, "upper"),
    }


METHOD = "{strategy: replay, memory.capacity: {choice: [50, 100, 200]}}"
RANGE = "{strategy: replay, memory.capacity: {randint: [50, 301]}}"
TEXT = f"{HEAD}strategies: {{first: {METHOD}, second: {RANGE}}}\n"
SEARCH = "search: {trials: 4, seeds: [0], finalists: {top: 2, seeds: [1]}}\nfinal: {seeds: [10, 11]}\n"


def made(folder: Path, winner: int = 200) -> Made:
    """Three points in four suggestions, two finalists, and a winner with 80 % on validation, 70 on test data."""
    found = Made(folder, TEXT + SEARCH)
    found.suggest("first", [50, 100, 200, 100])
    for capacity, value in ((50, 50.0), (100, 75.0), (200, 82.0)):
        found.end("first", capacity, 0, value)
    for capacity, value in ((100, 76.0), (200, 78.0)):
        found.end("first", capacity, 1, value, "finalists")
    found.win("first", winner)
    for seed, value in ((10, 69.0), (11, 71.0)):
        found.end("first", winner, seed, value, "final")
    return found


def test_the_winner_its_optimism_and_what_was_spent(tmp_path: Path) -> None:
    line = made(tmp_path / "r").line("first")
    found = line.search
    assert found is not None
    assert (dict(found.winner), found.ended, found.metric) == ({"memory.capacity": 200}, True, "average_accuracy")
    assert found.validation == pytest.approx(0.80)
    assert line.optimism == pytest.approx(0.10)
    assert found.values == pytest.approx((0.5, 0.75, 0.82))
    assert (found.points, found.trials, found.seconds, found.whole) == (3, 5, 5.0, True)
    assert {seeds.plain: value for seeds, value in line.by_seed.items()} == pytest.approx({10: 0.69, 11: 0.71})
    (row,) = [row for row in comparison(made(tmp_path / "s").results).to_arrow().to_pylist() if row["alias"] == "first"]
    assert row["winner"] == '{"memory.capacity": 200}'
    assert (row["optimism"], row["validation"]) == (pytest.approx(0.10), pytest.approx(0.80))
    assert (row["search_points"], row["search_trials"], row["search_seconds"]) == (3, 5, 5.0)


def test_validation_on_other_tasks_tells_of_no_optimism(tmp_path: Path) -> None:
    text = TEXT.replace("first: ", "only: ").replace("second: ", "first: ")
    found = Made(tmp_path / "r", text + SEARCH.replace("{trials", "{protocol: {first_tasks: 2}, trials"))
    found.suggest("first", [60])
    found.end("first", 60, 0, 80.0)
    found.win("first", 60)
    found.end("first", 60, 10, 70.0, "final")
    line = found.line("first")
    assert line.search is not None
    assert (line.search.validation, line.optimism) == (pytest.approx(0.8), None)


def test_a_winner_at_an_end_is_warned_of_with_the_remedy(tmp_path: Path) -> None:
    told = (
        "Winners within 5 % of an end of their range: first memory.capacity 200 of choice(50, 100, 200). Widen it, and"
    )
    assert any(note.startswith(told) for note in comparison(made(tmp_path / "r").results).notes)
    assert not any("an end of" in note for note in comparison(made(tmp_path / "s", 100).results).notes)


def test_fewer_points_than_others_are_warned_of_unless_they_are_all(tmp_path: Path) -> None:
    found = made(tmp_path / "r")
    found.suggest("second", [60, 100, 60, 60])
    for capacity in (60, 100):
        found.end("second", capacity, 0, 40.0)
    assert not any("distinct points" in note for note in comparison(found.results).notes), "its search has not ended"
    for capacity in (60, 100):
        found.end("second", capacity, 1, 40.0, "finalists")
    found.win("second", 60)
    assert "second: 2 distinct points were tried, of others up to 3." in comparison(found.results).notes


@pytest.mark.parametrize(("tried", "told"), [([50, 100, 200, 100], False), ([50, 100, 50, 100], True)])
def test_all_points_of_a_space_are_enough(tmp_path: Path, tried: list[int], told: bool) -> None:
    """Four suggestions of a space of three points, beside a method with four points."""
    found = Made(tmp_path / "r", TEXT + SEARCH.replace("finalists: {top: 2, seeds: [1]}", "metric: average_accuracy"))
    for alias, points in (("second", [60, 100, 150, 160]), ("first", tried)):
        found.suggest(alias, points)
        for capacity in dict.fromkeys(points):
            found.end(alias, capacity, 0, 40.0)
        found.win(alias, 100)
    notes = comparison(found.results).notes
    assert ("first: 2 distinct points were tried, of others up to 4." in notes) is told
    assert any("distinct points" in note for note in notes) is told


def test_a_point_that_a_limit_refused_was_not_tried(tmp_path: Path) -> None:
    found = made(tmp_path / "r")
    entry = found.sweep.entry("second")
    for index, capacity in enumerate((60, 300, 110, 150, 160)):
        refused = {"refused": "limits.max_state_bytes is 10 (got 12)"} if capacity == 300 else {}
        stored = {"point": {"memory.capacity": capacity}, **refused}
        found.results.write_json_once(suggestion_path(entry, index), stored)
        if not refused:
            found.end("second", capacity, 0, 40.0)
    search = found.line("second").search
    assert search is not None
    assert (search.points, search.trials, len(search.values)) == (4, 4, 4)


def test_what_was_not_searched_has_no_search(tmp_path: Path) -> None:
    found = Made(tmp_path / "r", f"{HEAD}strategies: {{one: {{strategy: naive}}, first: {METHOD}}}\n" + SEARCH)
    found.end("one", None, 10, 40.0, "final")
    assert found.line("one").search is None
    assert found.line("one").optimism is None
    assert found.line("first").search is None, "nothing has finished"
