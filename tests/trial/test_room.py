"""``memory.capacity: auto`` is the most that a limit has room for, to the row; sizes are known before training."""

from __future__ import annotations

from typing import Any

import pytest
from strategies.every_method import ONE_EACH, small
from support import counts, finish, trainer

from raycl.catalog import catalog
from raycl.errors import MethodError, SpecError
from raycl.matrix import Cost
from raycl.memory.policies import Pool, Ranked
from raycl.spec.check import Extents
from raycl.spec.sweep_options import LimitsConfig
from raycl.spec.trial import TrialSpec
from raycl.strategies.base import Strategy
from raycl.strategies.exstream import ExStream
from raycl.trial import room
from raycl.trial.trainer import TrialRehearsal

LIMIT = 40_000
NAMES = {name for name in catalog().strategies.names() if catalog().strategies.get(name).uses_memory} - {"exstream"}
KEEPERS = [case for case in ONE_EACH if case.values[0] in NAMES]


def filled(name: str, scenario: str, capacity: int | str, skipped: int = 0, **memory: Any) -> tuple[int, list[Cost]]:
    """A trial under the limit: its capacity in the end, and what it held after each task."""
    limits = LimitsConfig(max_state_bytes=LIMIT)
    spec = small(name, scenario, training={"epochs": 1}, memory={"capacity": capacity, **memory}, limits=limits)
    running = trainer(spec.model_copy(update={"skipped_tasks": skipped}))
    return running.setting.memory.examples, [row.cost for row in finish(running)[1:]]


def check_room(name: str, scenario: str) -> None:
    capacity, costs = filled(name, scenario, "auto")
    held = [cost.state_bytes + cost.buffer_bytes for cost in costs]
    assert max(held) <= LIMIT
    assert costs[-1].buffer_examples > capacity - 10, "the memory is full, but for what does not divide by its classes"
    with pytest.raises(MethodError, match=r"limits\.max_state_bytes is 40000"):
        filled(name, scenario, capacity + 10)


@pytest.mark.parametrize(("name", "scenario"), KEEPERS)
def test_so_many_fit_and_a_few_more_do_not(name: str, scenario: str) -> None:
    check_room(name, scenario)


@pytest.mark.parametrize(("unit", "units"), [("class", 6), ("task", 3)])
def test_a_capacity_per_class_or_task_is_its_share(unit: str, units: int) -> None:
    assert filled("replay", "class", "auto", unit=unit)[0] == filled("replay", "class", "auto")[0] // units


@pytest.mark.parametrize(("skipped", "classes"), [(1, 4), (2, 2)])
def test_of_the_tasks_that_are_left_alone_there_is_room_for_more(skipped: int, classes: int) -> None:
    """Two of three tasks are left, or one: by hand, an MLP 64-32-h of float32, and rows of 80 bytes."""
    own = 4 * (64 * 32 + 32 + 32 * classes + classes)
    capacity, costs = filled("replay", "class", "auto", skipped)
    assert capacity == (LIMIT - own) // 80
    assert [cost.state_bytes for cost in costs][-1] == own
    assert filled("replay", "class", "auto", skipped, unit="class")[0] == capacity // classes


def test_who_keeps_more_beside_an_example_keeps_fewer_of_them() -> None:
    """Stored logits of 6 units are 24 bytes beside the 80 of an image with its label and its task."""
    assert filled("der", "class", "auto")[0] < filled("replay", "class", "auto")[0]


def test_the_number_by_its_name_gives_the_same_trial() -> None:
    """Rehearsals leave no trace: the matrix is that of a capacity that is written, to the last bit."""
    limits = LimitsConfig(max_state_bytes=LIMIT)
    asked = trainer(small("replay", "class", memory={"capacity": "auto"}, limits=limits))
    written = small("replay", "class", memory={"capacity": asked.setting.memory.examples}, limits=limits)
    assert counts(finish(asked)) == counts(finish(trainer(written)))


def test_without_room_for_one_the_limit_is_refused() -> None:
    spec = small("replay", "class", memory={"capacity": "auto"}, limits=LimitsConfig(max_state_bytes=5000))
    with pytest.raises(SpecError, match=r"no room for examples beside the 9,112 bytes that replay keeps .*got 5,000"):
        trainer(spec)


def test_a_rehearsal_that_forgets_what_the_method_keeps_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: all of the limit is for examples."""
    fitting = room._fitting
    alone = [Cost(buffer_bytes=80 * rows, buffer_examples=rows) for rows in (1, 2)]
    monkeypatch.setattr(room, "_fitting", lambda few, more, limit: fitting(*alone, limit))
    with pytest.raises(MethodError, match=r"limits\.max_state_bytes"):
        check_room("replay", "class")


def test_what_it_came_to_stands_in_the_results() -> None:
    limits = LimitsConfig(max_state_bytes=LIMIT)
    asked = trainer(small("replay", "class", memory={"capacity": "auto"}, limits=limits))
    assert asked.resolved["memory.capacity"] == filled("replay", "class", "auto")[0]
    assert "memory.capacity" not in trainer(small("replay", "class", memory={"capacity": 30})).resolved


# -- sizes that are known before training ---------------------------------------------------------------------------

AWKWARD: list[tuple[int, str, dict[str, int]]] = [
    (7, "total", {"tasks": 3}),
    (101, "total", {"tasks": 5}),
    (101, "total", {"tasks": 5, "train_per_task": 60}),
    (7, "class", {"tasks": 5}),
    (7, "task", {"tasks": 3}),
]
"""Capacities that divide neither by the classes nor by the tasks, of which a first task may not have so many rows."""
NONE_KEPT: tuple[int, str, dict[str, int]] = (40, "total", {"tasks": 3})
FORETELLERS = [
    pytest.param(
        *case.values, *setting, id="-".join([str(case.id), *map(str, setting[:2]), *map(str, setting[2].values())])
    )
    for case in [*ONE_EACH, pytest.param("replay", "domain", id="replay-domain")]
    for setting in (AWKWARD if catalog().strategies.get(str(case.values[0])).uses_memory else [NONE_KEPT])
    if (case.values[0], setting[1]) != ("exstream", "task")  # it merges within a class
]


def sizes(spec: TrialSpec) -> tuple[dict[str, float | None], list[Cost]]:
    """What is foretold of a trial, and what it held after each task."""
    running = trainer(spec)
    extent = Extents(catalog()).of(running.setting.stream)
    assert extent is not None
    told = room.needs(spec, running.setting, running.layout, lambda *own: TrialRehearsal(*own).costs(), extent.rows)
    return told, [row.cost for row in finish(running)[1:]]


def check_foretold(name: str, scenario: str, capacity: int, unit: str, stream: dict[str, int]) -> None:
    memory = {"capacity": capacity, "unit": unit}
    told, costs = sizes(small(name, scenario, training={"epochs": 1}, memory=memory, stream=stream))
    held = max(cost.state_bytes + cost.buffer_bytes for cost in costs)
    assert told == {"max_state_bytes": held, "max_parameters": max(cost.parameters for cost in costs)}


@pytest.mark.parametrize(("name", "scenario", "capacity", "unit", "stream"), FORETELLERS)
def test_what_is_foretold_is_what_is_held(
    name: str, scenario: str, capacity: int, unit: str, stream: dict[str, int]
) -> None:
    """The most after any task: what a limit is held to."""
    check_foretold(name, scenario, capacity, unit, stream)


@pytest.mark.parametrize("name", ["replay", "icarl", "derpp"])
def test_rows_that_are_held_out_change_nothing_of_what_is_foretold(name: str) -> None:
    """Rehearsals hold rows out as well, of blank images of which there are few."""
    training = {"epochs": 1, "held_out": 0.2, "keep_best": True, "schedule": "cosine"}
    told, costs = sizes(small(name, "class", training=training, memory={"capacity": 101}))
    assert told["max_state_bytes"] == max(cost.state_bytes + cost.buffer_bytes for cost in costs)


def test_the_bytes_of_prototypes_by_hand() -> None:
    """ExStream with 101 rows: 51 and 50 of two classes after the first task, with the squared distances in each."""
    told, costs = sizes(
        small("exstream", "class", training={"epochs": 1}, memory={"capacity": 101}, stream={"tasks": 5})
    )
    network = 4 * (64 * 32 + 32 + 32 * 2 + 2)
    rows = 101 * (4 * 64 + 8 + 8 + 8 + 8)  # floats, label, task, count and slot
    assert costs[0].state_bytes + costs[0].buffer_bytes == network + rows + 4 * (51**2 + 50**2)
    assert told["max_state_bytes"] == network + rows + 4 * (51**2 + 50**2)


@pytest.mark.parametrize(
    ("name", "scenario", "capacity", "unit", "owner", "method"),
    [("icarl", "class", 7, "total", Ranked, Pool), ("exstream", "class", 7, "class", ExStream, Strategy)],
)
def test_mutants_that_take_every_memory_for_full_or_its_bytes_for_even_are_found(
    name: str,
    scenario: str,
    capacity: int,
    unit: str,
    owner: type[Any],
    method: type[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = "kept" if owner is Ranked else "remembered"
    monkeypatch.setattr(owner, told, vars(method)[told])
    with pytest.raises(AssertionError):
        check_foretold(name, scenario, capacity, unit, {"tasks": 3})
