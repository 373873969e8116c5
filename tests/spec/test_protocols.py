"""A protocol is a word, or a mapping of one word to its options."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raycl.spec.protocols import Choosing, CurrentTask, ProtocolConfig, SeenTasks, StabilityDecay
from raycl.spec.rules import BrokenRules, validate
from raycl.spec.sweep_options import SearchConfig


def protocol(given: Any) -> ProtocolConfig | None:
    return validate(SearchConfig, {"protocol": given}).as_it_goes


@pytest.mark.parametrize(
    ("given", "name", "options"),
    [
        ("current_task", "current_task", CurrentTask()),
        ({"current_task": {"retrain": True}}, "current_task", CurrentTask(retrain=True)),
        ({"seen_tasks": {"judge": "memory"}}, "seen_tasks", SeenTasks(judge="memory")),
        ("stability_decay", "stability_decay", StabilityDecay(drop=0.2, decay=0.5, trainings=10)),
    ],
)
def test_a_word_stands_for_its_defaults(given: Any, name: str, options: Any) -> None:
    found = protocol(given)
    assert found is not None
    assert (found.name, found.as_it_goes) == (name, options)


def test_the_usual_one_searches_first_and_is_told_as_before() -> None:
    assert protocol("end_of_training") is None
    assert SearchConfig().decisive()["protocol"] == "end_of_training"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"current_task": {}, "seen_tasks": {}},
        {"current_task": None},
        {"current_task": {"judge": "memory"}},
        {"stability_decay": {"drop": 1.0}},
        {"stability_decay": {"decay": 0.0}},
        {"stability_decay": {"trainings": 0}},
        "first",
        3,
    ],
    ids=json.dumps,
)
def test_what_is_no_protocol_is_refused(given: Any) -> None:
    with pytest.raises(BrokenRules):
        protocol(given)


def test_a_trial_is_named_by_its_own_protocol_alone() -> None:
    """One that comes later changes no name."""
    found = protocol("current_task")
    assert found is not None
    told = Choosing(protocol=found, candidates=({"penalty": 1.0},)).decisive()
    assert told["protocol"] == {"current_task": {"retrain": False}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [("current_task", (10, 10)), ({"current_task": {"retrain": True}}, (15, 15)), ("seen_tasks", (10, 10))],
)
def test_what_a_choice_among_two_costs_over_five_tasks(given: Any, expected: tuple[int, int]) -> None:
    found = protocol(given)
    assert found is not None
    assert Choosing(protocol=found, candidates=({"penalty": 1.0}, {"penalty": 2.0})).trainings(5) == expected
