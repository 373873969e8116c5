"""Scenarios in closed form: label numbering, active units, answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from raycl.streams.scenario import Scenario

SIZES = (2, 3, 1)
LOCAL = [torch.tensor([0, 1]), torch.tensor([0, 1, 2]), torch.tensor([0])]


def numbered(scenario: Scenario) -> list[list[int]]:
    return [scenario.labels(local, task).tolist() for task, local in enumerate(LOCAL)]


@pytest.mark.parametrize(
    ("name", "head", "labels", "outputs"),
    [
        ("class", "auto", [[0, 1], [2, 3, 4], [5]], [2, 5, 6]),
        ("class", "single", [[0, 1], [2, 3, 4], [5]], [2, 5, 6]),
        ("task", "auto", [[0, 1], [2, 3, 4], [5]], [2, 5, 6]),
        ("task", "per_task", [[0, 1], [2, 3, 4], [5]], [2, 5, 6]),
        ("task", "single", [[0, 1], [0, 1, 2], [0]], [3, 3, 3]),
        ("domain", "auto", [[0, 1], [0, 1, 2], [0]], [3, 3, 3]),
        ("domain", "per_task", [[0, 1], [2, 3, 4], [5]], [2, 5, 6]),
    ],
)
def test_numbering(name: str, head: str, labels: list[list[int]], outputs: list[int]) -> None:
    scenario = Scenario(name, head, SIZES)  # type: ignore[arg-type]
    assert numbered(scenario) == labels
    assert [scenario.outputs(task) for task in range(3)] == outputs
    assert scenario.num_outputs == outputs[-1]
    assert [list(scenario.units(task)) for task in range(3)] == labels


def test_units_grow_with_the_tasks_where_only_seen_ones_compete() -> None:
    scenario = Scenario("domain", "single", SIZES, active_logits="seen")
    assert [scenario.outputs(task) for task in range(3)] == [2, 3, 3]
    assert Scenario("class", "single", SIZES, active_logits="all").outputs(0) == 6


class Watched(tuple[int, ...]):
    """Sizes that count how often they are gone through."""

    passes = 0

    def __iter__(self) -> Iterator[int]:
        Watched.passes += 1
        return super().__iter__()

    def __getitem__(self, at: Any) -> Any:
        Watched.passes += isinstance(at, slice)
        return super().__getitem__(at)


@pytest.mark.parametrize("name", ["task", "domain", "class"])
def test_a_mask_is_made_without_a_look_at_every_task(name: str) -> None:
    """It is asked for in every update: of a thousand tasks the sizes alone took longer than the mask."""
    for policy in ("own", "current", "seen", "all"):
        scenario = Scenario(name, "single", Watched(SIZES), active_logits=policy)  # type: ignore[arg-type]
        for task in (1, 2, 2):
            before = Watched.passes
            scenario.mask(torch.tensor([0, 1]), policy, task)  # type: ignore[arg-type]
        assert Watched.passes == before


@pytest.mark.parametrize(
    ("policy", "current", "rows"),
    [
        ("own", 1, ["11000", "00111"]),
        ("current", 1, ["00111", "00111"]),
        ("seen", 1, ["11111", "11111"]),
        ("own", 2, ["110000", "001110"]),
        ("current", 2, ["000001", "000001"]),
        ("all", 2, ["111111", "111111"]),
    ],
)
def test_mask_of_class_incremental(policy: str, current: int, rows: list[str]) -> None:
    scenario = Scenario("class", "auto", SIZES)
    mask = scenario.mask(torch.tensor([0, 1]), policy, current)  # type: ignore[arg-type]
    assert ["".join("1" if active else "0" for active in row) for row in mask.tolist()] == rows


def test_mask_of_a_shared_head() -> None:
    scenario = Scenario("domain", "auto", SIZES)
    task = torch.tensor([0, 1, 2])
    assert scenario.mask(task, "own", 2).tolist() == [[True, True, False], [True] * 3, [True, False, False]]
    assert scenario.mask(task, "all", 0).tolist() == [[True] * 3] * 3
    assert scenario.mask(task, "seen", 0).tolist() == [[True, True, False]] * 3
    assert scenario.mask(task, "current", 2).tolist() == [[True, False, False]] * 3


def test_mask_never_mixes_up_devices_or_batches() -> None:
    scenario = Scenario("class", "auto", SIZES)
    first = scenario.mask(torch.tensor([0, 1, 2]), "own", 2)
    again = scenario.mask(torch.tensor([2, 1]), "own", 2)
    assert torch.equal(first[[2, 1]], again)


def test_answers() -> None:
    units = torch.arange(6)
    assert Scenario("class", "auto", SIZES).answers(units).tolist() == [0, 1, 2, 3, 4, 5]
    assert Scenario("task", "auto", SIZES).answers(units).tolist() == [0, 1, 0, 1, 2, 0]
    assert Scenario("domain", "per_task", SIZES).answers(units).tolist() == [0, 1, 0, 1, 2, 0]
    assert Scenario("domain", "auto", SIZES).answers(units[:3]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["task", "domain", "class"])
@pytest.mark.parametrize("head", ["single", "per_task"])
def test_every_answer_is_what_the_scenario_asks_for(name: str, head: str) -> None:
    scenario = Scenario(name, head, SIZES)  # type: ignore[arg-type]
    for task, local in enumerate(LOCAL):
        answers = scenario.answers(scenario.labels(local, task))
        asked = local + sum(SIZES[:task]) if name == "class" else local
        assert torch.equal(answers, asked)


def test_a_head_per_task_answers_only_learned_tasks() -> None:
    assert not Scenario("task", "auto", SIZES).answerable(1, 0)
    assert Scenario("task", "auto", SIZES).answerable(0, 0)
    assert Scenario("domain", "auto", SIZES).answerable(2, -1)
