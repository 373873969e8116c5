"""Points of a space: how many there are, which they are, and where they lie; and options that depend on others."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from sweeping import HEAD, parsed

from raycl.catalog import catalog
from raycl.errors import SpecError
from raycl.spec.distribution import Conditional, Distribution
from raycl.spec.points import active, every_point, place_of, point_at, points_in
from raycl.spec.schema import json_schema
from raycl.spec.space import Choice, LogRandInt, LogUniform, QUniform, RandInt, Uniform, find
from raycl.spec.sweep_options import SearchConfig
from raycl.sweep.suggestions import Outcome, Suggester

EVERY: dict[str, Distribution] = {
    "uniform": Uniform(0.5, 1.5),
    "loguniform": LogUniform(1e-3, 10.0),
    "quniform": QUniform(0.3, 1.1, 0.1),
    "randint": RandInt(2, 5),
    "lograndint": LogRandInt(1, 9),
    "choice": Choice((True, "x", 3), (True, "x", 3)),
}


@pytest.mark.parametrize("word", EVERY)
def test_shares_and_values_are_one_another(word: str) -> None:
    found = EVERY[word]
    for share in (0.0, 0.1, 0.25, 0.5, 0.75, 0.999999):
        value = found.at(share)
        assert found.contains(value)
        assert found.at(found.share(value)) == pytest.approx(value) if word.endswith("uniform") else value
        assert abs(found.share(value) - share) <= (1e-9 if found.count is None else 0.6)
    listed = list(found.values_in_order)
    assert len(listed) == (found.count or 0)
    assert all(map(found.contains, listed))
    if listed:
        assert [found.at(found.share(value)) for value in listed] == listed
        assert {found.at(share / 1000) for share in range(1000)} == set(listed)


def test_logarithms_give_each_decade_as_much() -> None:
    assert LogUniform(1e-3, 10.0).at(0.5) == pytest.approx(0.1)
    assert [LogRandInt(1, 9).at(share) for share in (0.0, 0.3, 0.999)] == [1, 1, 8]


SPACE: dict[str, Any] = {
    "mode": find({"choice": ["separate", "online"]}),
    "decay": find({"quniform": [0.8, 1.0, 0.1], "when": {"mode": "online"}}),
    "width": find({"randint": [1, 3]}),
}


def test_a_space_with_a_condition_is_counted_and_listed() -> None:
    assert points_in(SPACE) == 2 * (1 + 3)
    assert list(every_point(SPACE)) == [
        {"mode": "separate", "width": 1},
        {"mode": "separate", "width": 2},
        {"mode": "online", "decay": 0.8, "width": 1},
        {"mode": "online", "decay": 0.9, "width": 1},
        {"mode": "online", "decay": 1.0, "width": 1},
        {"mode": "online", "decay": 0.8, "width": 2},
        {"mode": "online", "decay": 0.9, "width": 2},
        {"mode": "online", "decay": 1.0, "width": 2},
    ]
    real = {**SPACE, "decay": find({"uniform": [0.8, 1.0], "when": {"mode": ["online"]}})}
    assert points_in(real) is None
    assert point_at(SPACE, (0.0, 0.9, 0.0)) == {"mode": "separate", "width": 1}
    assert point_at(SPACE, place_of(SPACE, {"mode": "online", "decay": 0.9, "width": 2})) == {
        "mode": "online",
        "decay": 0.9,
        "width": 2,
    }
    assert str(SPACE["decay"]) == "quniform(0.8, 1, 0.1), when mode is online"


def test_points_are_counted_by_the_values_that_conditions_name() -> None:
    """An option of a thousand million values, on one of which another depends, is not gone through."""
    many: dict[str, Any] = {
        "width": find({"randint": [0, 1_000_000_000]}),
        "flag": find({"choice": [True, 2, "x"]}),
        "a": find({"randint": [0, 7], "when": {"width": [3, 4], "flag": True}}),
        "b": find({"choice": [1, 2], "when": {"flag": [2, "x"]}}),
    }
    assert points_in(many) == (2 * 7 + (1_000_000_000 - 2)) + 2 * 2 * 1_000_000_000
    few = {**many, "width": find({"randint": [2, 6]})}
    assert points_in(few) == len(list(every_point(few))) == 2 * 7 + 2 + 2 * 2 * 4


EWC = (
    HEAD
    + """
strategies:
  ewc:
    penalty: {loguniform: [1, 1e3]}
    mode: {choice: [separate, online]}
    online_decay: {uniform: [0.8, 0.99], when: {mode: online}}
search: {trials: 12, generation: 4, startup: 4}
final: {seeds: [10]}
"""
)


def test_an_option_that_does_not_act_is_in_no_point_and_stands_at_its_default() -> None:
    sweep = parsed(EWC)
    (entry,) = sweep.entries
    assert sorted(entry.middle) == ["mode", "penalty"]
    separate = sweep.trial(entry, {"penalty": 5.0, "mode": "separate"}, 0, "search")
    default = parsed(HEAD + "strategies: {ewc: {penalty: 5}}\nfinal: {}\n")
    assert separate.options == default.trial(default.entries[0], {}, 0, "final").options
    online = sweep.trial(entry, {"penalty": 5.0, "mode": "online", "online_decay": 0.9}, 0, "search")
    assert online.options["online_decay"] == 0.9
    with pytest.raises(ValueError, match="must name exactly"):
        sweep.trial(entry, {"penalty": 5.0, "mode": "separate", "online_decay": 0.9}, 0, "search")
    assert list(sweep.first_points(entry)) == [({"penalty": 100.0, "mode": "separate"}, "defaults")]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "qmc"])
def test_every_sampler_searches_it_where_it_acts(sampler: Any) -> None:
    (entry,) = parsed(EWC).entries
    search = SearchConfig(trials=12, startup=4, generation=4, sampler=sampler)
    suggester, points, outcomes = Suggester(entry.space, search), list[Any](), list[Outcome]()
    for index in range(12):
        seen = 0 if index < 4 else index - index % 4
        worth = [float(point["mode"] == "online") - 1e-3 * float(point["penalty"]) for point in points]
        outcomes += [Outcome(points[i], "finished", worth[i]) for i in range(len(outcomes), seen)]
        points.append(suggester.draw(index, outcomes, points).point)
    assert {("online_decay" in point) == (point["mode"] == "online") for point in points} == {True}
    assert len({point.get("online_decay") for point in points}) > 3


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("when: {mode: offline}", "must be among what is searched: choice('separate', 'online') (got 'offline')"),
        ("when: {momentum: 0.5}", "must be an option that is searched as well, and always"),
        ("when: {}", "must name searched options and their values, such as {mode: online}"),
        ("when: {mode: [[1]]}", "must be a value, or a list of values"),
    ],
)
def test_a_condition_that_cannot_be_is_refused_at_its_place(given: str, told: str) -> None:
    with pytest.raises(SpecError) as error:
        parsed(EWC.replace("when: {mode: online}", given))
    assert told in str(error.value)
    assert "<text>:12:" in str(error.value)


def test_a_condition_on_what_one_method_does_not_search_is_refused_for_it() -> None:
    shared = HEAD.replace("2e-3", "{loguniform: [1e-4, 1e-2], when: {memory.selection: reservoir}}")
    shared = shared.replace("capacity: 50", "capacity: 50, selection: {choice: [reservoir, class_balanced]}")
    end = "search: {trials: 4}\nfinal: {seeds: [10]}\n"
    assert parsed(f"{shared}strategies: {{replay: {{}}}}\n{end}")
    with pytest.raises(SpecError, match="searched as well, and always; for naive it does nothing"):
        parsed(f"{shared}strategies: {{replay: {{}}, naive: {{}}}}\n{end}")


def test_a_named_point_has_what_its_options_depend_on() -> None:
    with pytest.raises(
        SpecError, match=r"enqueue\.0\.online_decay: is searched by ewc as .* when mode is online; name"
    ):
        parsed(EWC.replace("startup: 4", "startup: 4, enqueue: [{online_decay: 0.9}]"))
    sweep = parsed(EWC.replace("startup: 4", "startup: 4, enqueue: [{mode: online, online_decay: 0.9}]"))
    assert next(sweep.first_points(sweep.entries[0]))[0]["online_decay"] == 0.9


def test_a_whole_number_names_no_second_point_of_a_real_range() -> None:
    for word in ("uniform", "loguniform"):
        assert type(find({word: [1, 10]}).encode(3)) is float
    assert type(find({"choice": [1, 10]}).encode(10)) is int


def test_editors_take_a_condition() -> None:
    schema = json_schema(catalog())
    file = {
        "name": "a",
        "stream": {"name": "split", "dataset": "digits", "tasks": 5},
        "model": {"name": "mlp"},
        "strategies": {"ewc": {"online_decay": {"uniform": [0.8, 1.0], "when": {"mode": "online"}}}},
    }
    jsonschema.validate(file, schema)
    file["strategies"] = {"ewc": {"online_decay": {"uniform": [0.8, 1.0], "loguniform": [0.8, 1.0]}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(file, schema)


def test_conditions_are_those_of_the_point() -> None:
    found = Conditional(Uniform(0.0, 1.0), (("a", (1, 2)), ("b", (True,))))
    assert found.acts({"a": 2, "b": True})
    assert not found.acts({"a": 2, "b": 1}), "true is not 1"
    assert not found.acts({"a": 2})
    assert active({"a": RandInt(0, 3), "c": found}, {"a": 1, "c": 0.5}) == {"a": 1}
