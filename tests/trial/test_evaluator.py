"""What a strategy is shown when it is measured, what counts as correct, and what stays out of sight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from support import ahead, trial
from torch import Tensor

from raycl.spec.evaluation import EvaluationConfig
from raycl.spec.options import HeadKind, ScenarioName
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
    inference_batch: int = 1
    ignores_task: bool = False
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
    return Evaluator(source, "test", own, pixels, config, CPU, boundaries_hidden=hidden), source


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
    assert [(len(x), task) for x, task in strategy.calls] == [(3 * ROWS, None)]


def test_a_task_id_that_is_given_is_the_rows_own() -> None:
    own = scenario("task")
    _, _, strategy = measured(own, lambda x: torch.zeros(len(x), own.outputs(2)), 2)
    assert [task for _, task in strategy.calls] == [0, 1, 2]


@pytest.mark.parametrize("name", ["task", "domain", "class"])
def test_a_strategy_sees_pixels_and_nothing_else(name: ScenarioName) -> None:
    """Plain float pixels, as they are: no batch, no label, no id, no augmentation; nothing else could leak."""
    own = scenario(name, sizes=(2, 2, 2))
    _, _, strategy = measured(own, lambda x: torch.zeros(len(x), own.outputs(2)), 2)
    assert all(type(x) is Tensor for x, _ in strategy.calls)
    for task, x in enumerate(torch.cat([x for x, _ in strategy.calls]).split(ROWS)):
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
    assert strategy.gradients == [False]
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
    return {"total": total, "labels": strategy.calls[0][0][total[0] :, 0, 0, 0].tolist()}


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


def test_it_asks_for_its_own_split_once_a_task_and_fetches_ahead_what_it_does_not_keep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks, kept = 7, range(4)
    monkeypatch.setattr(evaluator, "KEPT_BYTES", len(kept) * ROWS * 3 * 8)  # rows, answers and tasks of each
    own = scenario("class", sizes=(2,) * tasks)
    strategy = Shown(lambda x: torch.zeros(len(x), own.num_outputs))
    evaluating, source = made(own)
    for _ in range(2):
        evaluating.measure(strategy, tasks - 1)  # type: ignore[arg-type]
    others = range(len(kept), tasks)
    assert source.asked == [(task, "test") for task in (*kept, *others, *others)]
    assert set(source.ahead) == {(task, "test") for task in others[1:]}


def test_a_task_that_is_too_large_to_keep_leaves_the_room_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Uneven(Source):
        def part(self, task: int, split: SplitName) -> Part:
            self.rows = 50 if task == 0 else ROWS
            return super().part(task, split)

    monkeypatch.setattr(evaluator, "KEPT_BYTES", 2 * ROWS * 3 * 8)
    own = scenario("class", sizes=(2, 2, 2))
    evaluating, source = made(own, Uneven(own.sizes))
    for _ in range(2):
        evaluating.measure(Shown(lambda x: torch.zeros(len(x), own.num_outputs)), 2)  # type: ignore[arg-type]
    assert [task for task, _ in source.asked] == [0, 1, 2, 0]


# -- rows of several tasks in one batch --------------------------------------------------------------------------------


@dataclass
class Drawn(Source):
    """Random images; each task has a permutation of its own, is turned, or is as it is."""

    recipes: tuple[Recipe, ...] = ()

    def part(self, task: int, split: SplitName) -> Part:
        part = super().part(task, split)
        images = np.random.default_rng(0).integers(0, 256, (self.rows, 1, 4, 4), dtype=np.uint8)
        return Part(images, part.rows, part.labels, self.recipes[task], f"{split}")


def permutation(seed: int) -> Recipe:
    return Recipe(permutation=np.random.default_rng(seed).permutation(16))


@pytest.mark.parametrize(
    "recipes",
    [
        (permutation(1), permutation(2), permutation(3)),
        (Recipe(pad=1), Recipe(pad=1, permutation=np.arange(36)[::-1].copy()), Recipe(pad=1)),
        (Recipe(angle=30.0), Recipe(angle=0.0), Recipe(angle=75.0)),
    ],
)
def test_tasks_that_share_a_batch_are_shown_as_they_are_alone(recipes: tuple[Recipe, ...]) -> None:
    own = scenario("domain", sizes=(2, 2, 2))
    shown = []
    for inference_batch in (1, 2):
        strategy = Shown(lambda x: torch.zeros(len(x), own.outputs(2)), inference_batch=inference_batch)
        made(own, Drawn(recipes=recipes))[0].measure(strategy, 2)  # type: ignore[arg-type]
        shown.append(strategy.calls)
    together, alone = shown
    assert [len(x) for x, _ in together] == [3 * ROWS]
    assert [len(x) for x, _ in alone] == [ROWS] * 3  # rows that are pooled for an answer are those of one task
    assert torch.equal(together[0][0], torch.cat([x for x, _ in alone]))


def test_a_task_that_is_named_shares_a_batch_only_where_the_answer_is_the_same() -> None:
    own = scenario("task")
    for ignores, calls in ((True, [(3 * ROWS, 0)]), (False, [(ROWS, 0), (ROWS, 1), (ROWS, 2)])):
        strategy = Shown(right(own, 2), ignores_task=ignores)
        correct, _ = made(own)[0].measure(strategy, 2)  # type: ignore[arg-type]
        assert [(len(x), task) for x, task in strategy.calls] == calls
        assert correct.tolist() == [ROWS] * 3


def test_a_shared_batch_is_no_larger_than_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "BATCH_SIZE", 2 * ROWS + 1)
    own = scenario("class")
    _, total, strategy = measured(own, right(own, 2), 2)
    assert [len(x) for x, _ in strategy.calls] == [2 * ROWS, ROWS]
    assert total == [ROWS] * 3


# -- cells that are asked for ------------------------------------------------------------------------------------------


def cells(learned: int, count: int = 6, seed: int = 0, **options: Any) -> list[int]:
    """The tasks that are measured after task ``learned`` of a domain-incremental stream."""
    own = scenario("domain", sizes=(2,) * count)
    source = Source(own.sizes)
    pixels = Pixels("none", "none", source.layout, torch.Generator(), CPU)
    config = EvaluationConfig.model_validate_json(json.dumps(options))
    total = Evaluator(source, "test", own, pixels, config, CPU, seed=seed).measure(
        Shown(lambda x: torch.zeros(len(x), 2)),  # type: ignore[arg-type]
        learned,
    )[1]
    return list(total.nonzero()[0].tolist())


def test_all_tasks_are_measured_after_each_by_default() -> None:
    assert [cells(row) for row in range(-1, 6)] == [list(range(6))] * 7
    assert [cells(row, tasks="seen") for row in range(-1, 6)] == [list(range(row + 1)) for row in range(-1, 6)]


def test_rows_between_are_left_out_and_the_last_never() -> None:
    assert [len(cells(row, every=4)) for row in range(-1, 6)] == [6, 0, 0, 0, 6, 0, 6]
    assert [len(cells(row, every=2, from_task=3)) for row in range(-1, 6)] == [0, 0, 0, 0, 6, 0, 6]
    assert [len(cells(row, every="end")) for row in range(-1, 6)] == [0] * 6 + [6]


def sampled(learned: int, sample: int = 2, seed: int = 0) -> list[int]:
    return cells(learned, count=9, seed=seed, tasks={"sample": sample})


def test_a_sample_of_the_earlier_tasks_is_measured_beside_the_task_itself() -> None:
    rows = [sampled(row) for row in range(9)]
    assert [len(row) for row in rows] == [1, 2, 3, 3, 3, 3, 3, 3, 9]  # all in the end
    assert all(row[-1] == task for task, row in enumerate(rows))
    assert sampled(-1) == []
    assert [sampled(row) for row in range(9)] == rows
    assert len({tuple(sampled(7, seed=seed)) for seed in range(30)}) > 10
    assert all(set(sampled(7, 2, seed)) < set(sampled(7, 4, seed)) for seed in range(10))


def test_more_than_a_hundred_tasks_are_sampled_by_default() -> None:
    assert len(cells(60, count=100)) == 100
    assert len(cells(60, count=101)) == 21
    assert len(cells(60, count=101, tasks="all")) == 101


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_rows_of_a_memory_are_counted_by_their_tasks(scenario: str) -> None:
    """Against predictions row by row; task 2 has no rows yet."""
    running = ahead(trial("replay", scenario), 2)
    rows = running.remembered()
    correct, total = running.counts_on(rows)
    assert total.tolist() == [*torch.bincount(rows["task"], minlength=2).tolist(), 0]
    right = [0, 0, 0]
    running.strategy.train(False)
    for image, label, task in zip(rows["image"], rows["label"], rows["task"].tolist(), strict=True):
        with torch.no_grad():
            logits = running.strategy.predict(image[None] / 255, task if scenario == "task" else None)[0]
        units = running.scenario.units(task) if scenario == "task" else range(len(logits))
        right[task] += units.start + int(logits[units.start : units.stop].argmax()) == int(label)
    assert correct.tolist() == right
    assert [found.tolist() for found in running.counts_on({})] == [[0, 0, 0], [0, 0, 0]]
