"""What a strategy is shown when it is measured, what counts as correct, and what stays out of sight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raycl.spec.options import HeadKind, ScenarioName
from raycl.spec.sweep_options import EvaluationConfig
from raycl.streams.scenario import Scenario
from raycl.streams.task import Layout, Part, Recipe, SplitName
from raycl.trial import evaluator
from raycl.trial.evaluator import Evaluator
from raycl.trial.loading import Pixels

SIZES = (2, 3, 2)
ROWS = 8
CPU = torch.device("cpu")


@dataclass
class Source:
    """Images whose every pixel is the task, and whose first pixel is the local label; test rows are ``ROWS`` a task."""

    sizes: tuple[int, ...] = SIZES
    rows: int = ROWS
    asked: list[tuple[int, str]] = field(default_factory=list)
    ahead: list[tuple[int, str]] = field(default_factory=list)

    @property
    def layout(self) -> Layout:
        classes = tuple(tuple(range(size)) for size in self.sizes)
        return Layout(classes, (1, 4, 4), "hash", (0.0,), (1.0,))

    def part(self, task: int, split: SplitName) -> Part:
        self.asked.append((task, split))
        labels = np.arange(self.rows) % self.sizes[task]
        images = np.full((self.rows, 1, 4, 4), task, dtype=np.uint8)
        images[:, 0, 0, 0] = labels
        images.setflags(write=False)
        return Part(images, np.arange(self.rows), labels, Recipe(), f"{split}")

    def prefetch(self, task: int, split: SplitName) -> None:
        self.ahead.append((task, split))


@dataclass
class Shown:
    """A strategy that answers by a rule, and keeps what it was called with."""

    rule: Any
    zero_shot: bool = True
    calls: list[tuple[Tensor, int | None]] = field(default_factory=list)
    modes: list[bool] = field(default_factory=list)
    gradients: list[bool] = field(default_factory=list)

    def train(self, mode: bool) -> None:
        self.modes.append(mode)

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        self.calls.append((x, task))
        self.gradients.append(torch.is_grad_enabled())
        logits: Tensor = self.rule(x)
        return logits


def scenario(name: ScenarioName = "class", head: HeadKind = "auto", sizes: tuple[int, ...] = SIZES) -> Scenario:
    return Scenario(name, head, sizes)


def made(own: Scenario, source: Source | None = None, hidden: bool = False, **options: Any) -> tuple[Evaluator, Source]:
    source = source or Source(own.sizes)
    pixels = Pixels("none", "crop_flip", source.layout, torch.Generator().manual_seed(0), CPU)
    config = EvaluationConfig(**options)
    return Evaluator(source, "test", own, pixels, config, CPU, hidden), source


def unit(number: int, outputs: int) -> Any:
    """Everything is this output unit."""
    return lambda x: torch.nn.functional.one_hot(torch.full((len(x),), number), outputs).float()


def right(own: Scenario, learned: int) -> Any:
    """The true unit of each row, read off its pixels."""

    def rule(x: Tensor) -> Tensor:
        task, label = x[:, 0, 1, 1].long(), x[:, 0, 0, 0].long()
        offsets = torch.tensor([own.offset(each) for each in range(own.num_tasks)])
        return torch.nn.functional.one_hot(offsets[task] + label, own.outputs(learned)).float()

    return rule


def measured(own: Scenario, rule: Any, learned: int, **options: Any) -> tuple[list[int], list[int], Shown]:
    strategy = Shown(rule, options.pop("zero_shot", True))
    correct, total = made(own, **options)[0].measure(strategy, learned)  # type: ignore[arg-type]
    return correct.tolist(), total.tolist(), strategy


# -- what a strategy is told -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "head"), [("domain", "auto"), ("domain", "per_task"), ("class", "auto")])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_task_id_that_is_hidden_is_never_handed_over(name: ScenarioName, head: HeadKind, hidden: bool) -> None:
    sizes = (2, 2, 2)
    own = scenario(name, head, sizes)
    _, total, strategy = measured(own, lambda x: torch.zeros(len(x), own.outputs(2)), 2, hidden=hidden)
    assert total == [ROWS] * 3
    assert len(strategy.calls) == 3
    assert [task for _, task in strategy.calls] == [None] * 3


def test_a_task_id_that_is_given_is_the_rows_own() -> None:
    own = scenario("task")
    _, _, strategy = measured(own, lambda x: torch.zeros(len(x), own.outputs(2)), 2)
    assert [task for _, task in strategy.calls] == [0, 1, 2]


@pytest.mark.parametrize("name", ["task", "domain", "class"])
def test_a_strategy_sees_pixels_and_nothing_else(name: ScenarioName) -> None:
    """Plain float pixels, as they are: no batch, no label, no id, no augmentation; nothing else could leak."""
    own = scenario(name, sizes=(2, 2, 2))
    _, _, strategy = measured(own, lambda x: torch.zeros(len(x), own.outputs(2)), 2)
    for task, (x, _) in enumerate(strategy.calls):
        assert type(x) is Tensor
        assert (x.shape, x.dtype) == ((ROWS, 1, 4, 4), torch.float32)
        assert (x[:, 0, 1:] == task).all()
        assert x[:, 0, 0, 0].tolist() == [0, 1] * 4


def test_the_check_sees_an_evaluator_that_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the id is handed over whatever the scenario says."""
    monkeypatch.setattr(Scenario, "task_given", True)
    own = scenario("domain", sizes=(2, 2, 2))
    _, _, strategy = measured(own, lambda x: torch.zeros(len(x), own.outputs(2)), 2)
    assert [task for _, task in strategy.calls] == [0, 1, 2]


def test_it_measures_in_evaluation_mode_and_without_gradients() -> None:
    own = scenario()
    _, _, strategy = measured(own, right(own, 2), 2)
    assert strategy.modes == [False]
    assert strategy.gradients == [False] * 3
    assert torch.is_grad_enabled()


# -- counts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head"), [("task", "auto"), ("domain", "auto"), ("domain", "per_task"), ("class", "auto")]
)
def test_right_answers_count(name: ScenarioName, head: HeadKind) -> None:
    own = scenario(name, head)
    assert measured(own, right(own, 2), 2)[:2] == ([ROWS] * 3, [ROWS] * 3)


def test_answers_are_units_of_the_classes_seen_where_the_id_is_hidden() -> None:
    own = scenario("class")
    correct, total, _ = measured(own, unit(2, 7), 2)
    assert (correct, total) == ([0, 3, 0], [ROWS] * 3), "unit 2 is label 0 of task 1: rows 0, 3, 6"


def test_answers_are_units_of_the_own_task_where_the_id_is_given() -> None:
    own = scenario("task")
    correct, _, _ = measured(own, lambda x: 9 * unit(6, 7)(x) + unit(3, 7)(x) + unit(0, 7)(x), 2)
    assert correct == [4, 3, 4], "the best unit within each task: 0, 3 and 6"


def test_a_place_within_the_task_is_asked_for_where_tasks_have_heads_and_the_id_is_hidden() -> None:
    own = scenario("domain", "per_task", (2, 2, 2))
    correct, _, _ = measured(own, unit(3, 6), 2)
    assert correct == [4, 4, 4], "the second unit of any head says label 1"


def test_all_units_may_win_where_boundaries_are_hidden() -> None:
    own = Scenario("class", "single", SIZES, "all")
    rule = lambda x: 9 * unit(6, 7)(x) + unit(0, 7)(x)  # noqa: E731
    assert measured(own, rule, 0)[0] == [4, 0, 0]
    assert measured(own, rule, 0, hidden=True)[0] == [0, 0, 0]


# -- null cells --------------------------------------------------------------------------------------------------------


def test_tasks_to_come_are_null_where_they_have_no_units() -> None:
    own = scenario("class")
    assert measured(own, right(own, 1), 1)[1] == [ROWS, ROWS, 0]
    assert measured(own, right(own, 0), -1)[1] == [0, 0, 0]


def test_tasks_to_come_are_measured_where_units_are_shared_and_it_is_asked_for() -> None:
    own = scenario("domain", sizes=(2, 2, 2))
    assert measured(own, right(own, 0), -1)[1] == [ROWS] * 3
    assert measured(own, right(own, 0), 0)[1] == [ROWS] * 3
    assert measured(own, right(own, 0), 0, future_tasks=False)[1] == [ROWS, 0, 0]
    assert measured(own, right(own, 0), 0, zero_shot=False)[1] == [ROWS, 0, 0]


# -- rows --------------------------------------------------------------------------------------------------------------


def limited(**options: Any) -> Mapping[str, Any]:
    """Which rows of a task of eight are measured, and how many count."""
    own = scenario("class", sizes=(4, 4))
    _, total, strategy = measured(own, right(own, 1), 1, **options)
    return {"total": total, "labels": strategy.calls[1][0][:, 0, 0, 0].tolist()}


def test_at_most_so_many_examples_of_each_task_are_measured_the_first_ones() -> None:
    assert limited() == {"total": [8, 8], "labels": [0, 1, 2, 3, 0, 1, 2, 3]}
    assert limited(max_examples=3) == {"total": [3, 3], "labels": [0, 1, 2]}
    assert limited(max_examples=100) == limited()


def test_the_check_sees_a_limit_that_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: ``max_examples`` is ignored."""
    original = evaluator.part_segment
    monkeypatch.setattr(evaluator, "part_segment", lambda part, y, task, device, limit: original(part, y, task, device))
    assert limited(max_examples=3)["total"] == [8, 8]


def test_batches_bound_the_memory_and_every_row_counts_once() -> None:
    own = scenario("class")
    source = Source(rows=2 * evaluator.BATCH_SIZE + 1)
    correct, total, strategy = measured(own, right(own, 2), 2, source=source)
    assert correct == total == [2 * evaluator.BATCH_SIZE + 1] * 3
    assert [len(x) for x, _ in strategy.calls] == [evaluator.BATCH_SIZE, evaluator.BATCH_SIZE, 1] * 3


def test_it_asks_for_its_own_split_once_a_task_and_fetches_ahead_what_it_does_not_keep() -> None:
    tasks = evaluator.CACHED_TASKS + 3
    own = scenario("class", sizes=(2,) * tasks)
    strategy = Shown(lambda x: torch.zeros(len(x), own.num_outputs))
    evaluating, source = made(own)
    for _ in range(2):
        evaluating.measure(strategy, tasks - 1)  # type: ignore[arg-type]
    kept, others = range(evaluator.CACHED_TASKS), range(evaluator.CACHED_TASKS, tasks)
    asked = [*kept, *others, *others]
    assert source.asked == [(task, "test") for task in asked]
    assert set(source.ahead) == {(task, "test") for task in others}
