"""What samplers suggest, having seen what they may see."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import qmc
from sweeping import HEAD, ledger, parsed, play

from raycl.errors import SpecError
from raycl.results.standing import standings
from raycl.results.trackers.optuna_terms import optuna_space
from raycl.spec import space
from raycl.spec.distribution import Conditional
from raycl.spec.points import Point, Space, place_of
from raycl.spec.sweep_options import LimitsConfig, SearchConfig
from raycl.sweep import suggestions
from raycl.sweep.dispatch import Dispatcher
from raycl.sweep.finalists import FinalistsPlan
from raycl.sweep.job import Job
from raycl.sweep.ledger import Ledger
from raycl.sweep.search import SearchPlan
from raycl.sweep.suggestions import Outcome, Suggester, frozen, sampler_seed
from raycl.trial.check import over_limits, unfit

SPACES = {
    "uniform": space.Uniform(0.5, 1.5),
    "loguniform": space.LogUniform(1e-3, 10.0),
    "quniform": space.QUniform(0.0, 1.0, 0.25),
    "randint": space.RandInt(2, 5),
    "lograndint": space.LogRandInt(1, 9),
    "choice": space.Choice((True, "x", 3), (True, "x", 3)),
}


PAIR: Space = {"rate": space.LogUniform(1e-4, 1e-1), "penalty": space.LogUniform(1.0, 1e6)}


def height(point: Any) -> float:
    """A ridge: what is right for one option depends on the other."""
    rate, penalty = place_of(PAIR, point)
    return -((rate + penalty - 1.1) ** 2) - 0.3 * (rate - 0.4) ** 2


def went(search: SearchConfig, over: Space = PAIR, value: Any = height, count: int = 20) -> list[Point]:
    """The points of a search in generations, of which each outcome is known once its generation has ended."""
    suggester, points, outcomes = Suggester(over, search, "ewc"), list[Point](), list[Outcome]()
    for index in range(count):
        seen = 0 if index < search.startup else index - (index - search.startup) % search.generation
        outcomes += [Outcome(point, "finished", value(point)) for point in points[len(outcomes) : seen]]
        points.append(suggester.draw(index, outcomes, points).point)
    return points


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "qmc"])
@pytest.mark.parametrize("name", SPACES)
def test_every_distribution_is_drawn_within_its_bounds(name: str, sampler: Any) -> None:
    distribution, search = SPACES[name], SearchConfig(startup=3, sampler=sampler, trials=1)
    count = 4 if sampler == "gp" else 40 if distribution.count is None else 12
    points = went(search, {"a": distribution}, lambda point: float(str(point["a"]) < "2"), count)
    assert all(distribution.contains(point["a"]) for point in points)
    if name in ("randint", "choice") and count > 4:
        assert len({point["a"] for point in points}) == 3  # both ends occur: the upper bound is excluded


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_sampler_learns_from_what_it_sees(sampler: Any) -> None:
    known = {"a": space.Uniform(0.0, 1.0)}
    seen = [Outcome({"a": x / 20}, "finished", -abs(x / 20 - 0.3), {}) for x in range(20)]
    search = SearchConfig(startup=5, sampler=sampler)
    indices = range(20, 26 if sampler == "gp" else 50)
    learned = [Suggester(known, search).draw(index, seen).point["a"] for index in indices]
    blind = [Suggester(known, search).draw(index, ()).point["a"] for index in indices]
    assert sum(abs(x - 0.3) for x in learned) < 0.5 * sum(abs(x - 0.3) for x in blind)


def spread(points: list[Point]) -> float:
    """The least distance of two points in the unit cube."""
    places = [np.array(place_of(PAIR, point)) for point in points]
    return min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(places, 2))


def test_suggestions_of_a_generation_keep_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def generation(seed: int) -> list[Point]:
        search = SearchConfig(startup=5, generation=5, seed=seed)
        return went(search, count=25)[-5:]

    told = [spread(generation(seed)) for seed in range(12)]
    original = Suggester._shown
    monkeypatch.setattr(Suggester, "_shown", lambda self, seen, earlier: original(self, seen, ()))
    blind = [spread(generation(seed)) for seed in range(12)]
    assert np.mean(told) > 1.3 * np.mean(blind), "the mutant: suggestions know nothing of each other"


def some_outcome(number: int) -> Outcome:
    """Every seventh was pruned, every eleventh failed."""
    point: dict[str, Any] = {"a": (number * 37 % 100) / 100, "b": 1 + number % 4}
    if number % 11 == 10:
        return Outcome(point, "failed", None, {}, "diverged")
    value = -abs(point["a"] - 0.3)
    return Outcome(point, "pruned", None, {0: value}) if number % 7 == 6 else Outcome(point, "finished", value, {})


def test_outcomes_are_told_once_and_points_are_as_if_told_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of a suggestion does not grow with a copy of all that came before it, and a driver that starts in the
    middle suggests the same."""
    known: Space = {"a": space.Uniform(0.0, 1.0), "b": space.RandInt(1, 5)}
    search, told = SearchConfig(startup=3, generation=4, trials=99), []
    outcomes = [some_outcome(number) for number in range(40)]
    points = [outcome.point for outcome in outcomes]
    shown = [outcomes[: max(0, index - (index - 3) % 4)] if index >= 3 else [] for index in range(40)]
    anew = [Suggester(known, search).draw(index, seen, points[:index]) for index, seen in enumerate(shown)]
    monkeypatch.setattr(suggestions, "frozen", lambda outcome, *more: told.append(outcome) or frozen(outcome, *more))
    suggester = Suggester(known, search)
    assert [suggester.draw(index, seen, points[:index]) for index, seen in enumerate(shown)] == anew
    assert told == outcomes[: len(shown[-1])]
    assert suggester.draw(5, shown[5], points[:5]) == anew[5], "fewer outcomes than before are told anew"


# -- points once, small spaces whole -----------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_no_point_comes_twice_while_others_are_left(sampler: Any) -> None:
    known: Space = {"a": space.Choice((1, True, "x"), (1, True, "x")), "b": space.RandInt(0, 4)}
    search = SearchConfig(startup=3, sampler=sampler, trials=11)
    points = went(search, known, lambda point: float(point["b"] == 2), 12)
    assert len({(type(point["a"]), point["a"], point["b"]) for point in points}) == 12


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_branch_of_one_point_is_tried_once(sampler: Any) -> None:
    """However good it is: beside the other value a real option is searched, so points are left for ever."""
    known: Space = {
        "mode": space.Choice(("separate", "online"), ("separate", "online")),
        "decay": Conditional(space.Uniform(0.8, 1.0), (("mode", ("online",)),)),
    }
    search = SearchConfig(startup=4, generation=2, sampler=sampler, trials=24)
    points = went(search, known, lambda point: float(point["mode"] == "separate"), 24)
    assert sum(point == {"mode": "separate"} for point in points) == 1
    assert len({point.get("decay") for point in points}) == 24


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "grid"])
def test_a_space_of_few_points_is_enumerated(sampler: Any) -> None:
    known: Space = {"a": space.Choice((50, 100), (50, 100)), "b": space.QUniform(0.0, 1.0, 0.5)}
    search = SearchConfig(sampler=sampler, trials=6)
    suggester, drawn = Suggester(known, search, first=[({"a": 100, "b": 0.5}, "defaults")]), []
    for index in range(6):
        drawn.append(suggester.draw(index, (), [one.point for one in drawn]))
    assert [(one.point["a"], one.point["b"]) for one in drawn] == [
        (100, 0.5), (50, 0.0), (50, 0.5), (50, 1.0), (100, 0.0), (100, 1.0),
    ]  # fmt: skip
    assert [one.how for one in drawn] == ["defaults", *5 * ["enumerated"]]


@pytest.mark.parametrize("seed", range(5))
def test_the_start_has_every_value_of_a_choice_and_every_part_of_a_range(seed: int) -> None:
    known: Space = {"a": space.Choice((1, 2, 3), (1, 2, 3)), "b": space.LogUniform(1e-3, 1e2)}
    first: list[tuple[Point, suggestions.How]] = [({"a": 1, "b": 0.5}, "defaults")]
    suggester = Suggester(known, SearchConfig(startup=5, seed=seed), first=first)
    drawn = [suggester.draw(index, (), [first[0][0]] * index) for index in range(1, 5)]
    assert [one.how for one in drawn] == 4 * ["start"]
    assert {one.point["a"] for one in drawn} == {1, 2, 3}
    assert sorted(int(4 * known["b"].share(one.point["b"])) for one in drawn) == [0, 1, 2, 3]


def test_qmc_is_the_scrambled_sobol_sequence() -> None:
    search = SearchConfig(sampler="qmc", trials=8)
    expected = qmc.Sobol(2, rng=np.random.default_rng(sampler_seed(search, "ewc", 0))).random(8)
    assert [place_of(PAIR, point) for point in went(search, count=8)] == [pytest.approx(row) for row in expected]


def test_a_start_that_is_longer_than_the_search_is_spread_over_its_trials() -> None:
    """Three trials of a start of nine: a point in each third of every range, and not three ninths of a design."""
    for seed in range(5):
        search = SearchConfig(trials=3, startup=9, seed=seed)
        places = [place_of(PAIR, point) for point in went(search, count=3)]
        for values in zip(*places, strict=True):
            assert sorted(int(3 * value) for value in values) == [0, 1, 2]


# -- named points, and the method's own ---------------------------------------------------------------------------

METHODS = (
    HEAD
    + """
strategies:
  ewc: {penalty: {loguniform: [1, 1e6]}, training.learning_rate: {choice: [1e-3, 1e-2]}}
  replay: {memory.capacity: {choice: [20, 50, 100]}}
"""
)
POINTS = METHODS + "search: {trials: 4, enqueue: [{penalty: 7}, {strategy: replay, memory.capacity: 100}]}\nfinal: {}\n"


def test_named_points_come_first_then_the_methods_own_values() -> None:
    sweep = parsed(POINTS)
    assert list(sweep.first_points(sweep.entry("ewc"))) == [
        ({"penalty": 7, "training.learning_rate": 1e-3}, "enqueued"),
        ({"penalty": 100.0, "training.learning_rate": 1e-3}, "defaults"),
    ]
    assert list(sweep.first_points(sweep.entry("replay"))) == [({"memory.capacity": 100}, "enqueued")]
    without = parsed(METHODS + "search: {trials: 4, defaults: false}\nfinal: {}\n")
    assert list(without.first_points(without.entry("ewc"))) == []


TWICE = "search: {trials: 2, enqueue: [{penalty: 7}, {penalty: 8}, {penalty: 7.0}, {penalty: 9}]}\nfinal: {}\n"


def test_named_points_that_are_not_tried_are_told(tmp_path: Path) -> None:
    """More than trials, or twice: by the whole point, whatever of it is written; a later file may try the others."""
    sweep = parsed(METHODS + TWICE)
    told = [text for text in sweep.warnings if "search.enqueue" in text]
    assert ["search.enqueue" in text for text in told] == [True, True]
    assert "names a point of ewc twice, which is tried once" in told[0]
    assert "names 3 points of ewc, of which only the first 2 are tried; raise search.trials" in told[1]
    assert told[0].startswith("<text>:"), "with its place"
    plan = SearchPlan(sweep, sweep.entry("ewc"), ledger(sweep, tmp_path))
    plan.wanted()
    assert [job.spec.point["penalty"] for job in plan.jobs()] == [7.0, 8.0]
    more = parsed(METHODS + TWICE.replace("trials: 2", "trials: 4"))
    plan = SearchPlan(more, more.entry("ewc"), ledger(more, tmp_path / "more"))
    plan.wanted()
    assert [job.spec.point["penalty"] for job in plan.jobs()] == [7.0, 8.0, 9.0, 100.0], "then the method's own"
    fits = TWICE.replace("trials: 2", "trials: 3").replace("{penalty: 7.0}, ", "")
    assert not [text for text in parsed(METHODS + fits).warnings if "enqueue" in text]
    assert not [text for text in parsed(POINTS).warnings if "enqueue" in text]
    whole = "enqueue: [{penalty: 7}, {penalty: 7, training.learning_rate: 1e-3}]"
    (same,) = (text for text in parsed(METHODS + f"search: {{{whole}}}\nfinal: {{}}\n").warnings if "enqueue" in text)
    assert "twice" in same


def test_named_points_do_nothing_where_the_file_gives_the_grid() -> None:
    text = HEAD + "strategies: {ewc: {training.learning_rate: {choice: [1e-3, 1e-2]}}}\n"
    text += "search: {protocol: stability_decay, enqueue: [{training.learning_rate: 1e-2}]}\nfinal: {}\n"
    (told,) = (found for found in parsed(text).warnings if "enqueue" in found)
    assert "search.enqueue: does nothing: stability_decay takes its grid from training.learning_rate" in told


def test_own_values_that_lie_outside_are_not_tried() -> None:
    sweep = parsed(METHODS.replace("[1, 1e6]", "[1, 50]") + "search: {trials: 4}\nfinal: {}\n")
    assert list(sweep.first_points(sweep.entry("ewc"))) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("enqueue: [{beta: 1}]", "search.enqueue.0: no method searches all of these options"),
        ("enqueue: [{penalty: 0.5}]", "must lie in what ewc searches: loguniform(1, 1e+06) (got 0.5)"),
        ("enqueue: [{strategy: replay, penalty: 5}]", "(searched: memory.capacity)"),
        ("sampler: grid", "as many trials as there are points (got ewc: more points than can be counted)"),
    ],
)
def test_points_and_grids_that_cannot_be_are_refused(line: str, told: str) -> None:
    with pytest.raises(SpecError) as error:
        parsed(METHODS + f"search: {{trials: 4, {line}}}\nfinal: {{}}\n")
    assert told in str(error.value)


def test_keys_that_came_later_change_no_hash_at_their_defaults() -> None:
    plain = METHODS + "search: {trials: 4}\nfinal: {}\n"
    told = METHODS + "search: {trials: 4, defaults: true, enqueue: []}\nfinal: {}\n"
    assert parsed(plain).hash == parsed(told).hash
    assert parsed(plain).hash != parsed(POINTS).hash


# -- limits ---------------------------------------------------------------------------------------------------------

LIMITED = (
    HEAD.replace("hidden: [24]", "hidden: {choice: [[8], [24], [400]]}")
    + """
strategies:
  replay: {memory.capacity: {lograndint: [10, 1000]}}
search: {trials: 4, generation: 2, startup: 2}
limits: {max_state_bytes: 14000}
final: {seeds: [10]}
"""
)


def state_bytes(point: Point) -> int:
    """Of replay on 8 x 8 digits by hand: float32 weights of an MLP 64-h-10, and for each of at most 1,150 rows its
    pixels, its class and its task."""
    (hidden,) = json.loads(str(point["model.hidden"]))
    return 4 * (64 * hidden + hidden + 10 * hidden + 10) + int(point["memory.capacity"]) * (64 + 8 + 8)


def test_points_over_a_limit_are_known_before_they_are_run() -> None:
    sweep = parsed(LIMITED)
    broken = over_limits(sweep, sweep.entries[0])
    for hidden, most in (("[8]", 144), ("[24]", 84), ("[400]", 0)):
        for capacity in (10, most, most + 1, 1000):
            point: Point = {"model.hidden": hidden, "memory.capacity": capacity}
            held = state_bytes(point)
            told = f"limits.max_state_bytes is 14000 (got {held})" if held > 14000 else ""
            assert capacity == 0 or broken(point) == told
    disjoint = parsed(LIMITED.replace("search: {", "search: {protocol: {first_tasks: {tasks: 3, disjoint: true}}, "))
    broken = over_limits(disjoint, disjoint.entries[0])
    held = state_bytes({"model.hidden": "[24]", "memory.capacity": 80}) - 4 * 6 * (24 + 1)
    point = {"model.hidden": "[24]", "memory.capacity": 80 + (14000 - held) // 80}
    assert not broken(point), "the heads of the tasks that are left out are not counted"
    assert broken({**point, "memory.capacity": point["memory.capacity"] + 1})
    assert LimitsConfig.excess("replay: limits.max_state_bytes is 14000 (got 21000)") == pytest.approx(0.5)
    assert LimitsConfig.excess("the loss is not finite") == 0


def limited(folder: Path, broken: Any) -> tuple[SearchPlan, Ledger, list[Job]]:
    sweep = parsed(LIMITED)
    book = ledger(sweep, folder)
    plan = SearchPlan(sweep, sweep.entries[0], book, broken)
    return plan, book, play(Dispatcher([plan], book, 2), book.results)


def test_no_trial_is_spent_on_a_point_over_a_limit(tmp_path: Path) -> None:
    sweep = parsed(LIMITED)
    plan, book, jobs = limited(tmp_path, over_limits(sweep, sweep.entries[0]))
    assert len(jobs) == 4
    assert all(state_bytes(dict(job.spec.point)) <= 14000 for job in jobs)
    refused = [outcome for outcome in plan.outcomes if outcome.status == "failed"]
    assert refused, "the start is spread over a space of which most is too large"
    for outcome in refused:
        told = frozen(outcome, optuna_space(plan.entry.space))
        assert told.constraints == {"limits": pytest.approx(state_bytes(dict(outcome.point)) / 14000 - 1)}
    (standing,) = standings(sweep, book.results, ledger(sweep, tmp_path).record)
    assert len(standing.again) == 1, "the search has ended for readers too"
    assert standing.outcomes == tuple(plan.outcomes)
    again, _, more = limited(tmp_path, lambda point: "never asked: what was suggested is written down")
    assert more == []
    assert again.outcomes == plan.outcomes
    _, _, blind = limited(tmp_path / "mutant", lambda point: "")
    assert any(state_bytes(dict(job.spec.point)) > 14000 for job in blind), "the mutant spends trials on them"


def test_where_no_point_keeps_within_a_limit_the_search_ends_and_says_so(tmp_path: Path) -> None:
    reason = "limits.max_state_bytes is 14000 (got 15000)"
    plan, book, jobs = limited(tmp_path, lambda point: reason)
    assert jobs == []
    assert len(plan.outcomes) == 40
    assert plan.wanted() is None
    finalists = FinalistsPlan(parsed(LIMITED), plan, book)
    assert finalists.wanted() is None
    assert finalists.failure == f"none of 40 points keeps within the limits; the nearest: {reason}"
    (standing,) = standings(parsed(LIMITED), book.results, book.record)
    assert standing.ended
    assert standing.failure == finalists.failure
    assert standing.trials() == []


def test_a_method_that_fits_nowhere_is_told_before_anything_runs() -> None:
    assert unfit(parsed(LIMITED)) == {}
    told = unfit(parsed(LIMITED.replace("14000", "3000")))
    assert told == {"replay": f"limits.max_state_bytes is 3000 (got {2440 + 10 * 80})"}
