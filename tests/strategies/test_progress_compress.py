"""Progress & Compress: which part moves when, what teaches and holds the knowledge base, who answers; and mutants."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from strategies.progress_compress_trials import DECAY, NORM, PATH, method, running
from support import PERMUTED, evaluation_rows, finish, matrix, penalty_of, trial
from torch import Tensor
from torch.nn.functional import kl_div

from raycl.errors import SpecError
from raycl.learning import distillation as distilling
from raycl.learning.quadratic import Quadratic
from raycl.models.columns import Column
from raycl.strategies.base import Losses, Position
from raycl.strategies.progress_compress import ProgressCompress
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer


def state(column: Column) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in column.state_dict().items()}


def moved(before: dict[str, Tensor], column: Column) -> list[str]:
    """Names of parameters and running statistics that are not as they were."""
    return [name for name, value in column.state_dict().items() if not torch.equal(value, before[name])]


def images(learning: Trainer) -> Tensor:
    return torch.rand(30, *method(learning).context.image_shape, generator=torch.Generator().manual_seed(0))


Snapshots = dict[str, tuple[dict[str, Tensor], dict[str, Tensor], Tensor]]


def watch(learning: Trainer, monkeypatch: pytest.MonkeyPatch) -> Snapshots:
    """States of both parts, and what the active column says, when the latest phases begin and when they are over."""
    strategy, seen = method(learning), {}

    def hook(name: str, key: str) -> None:
        original = getattr(strategy, name)

        def snapshot(*arguments: Any) -> None:
            if name != "end_task":
                original(*arguments)
            strategy.train(False)
            with torch.no_grad():
                seen[key] = state(strategy.knowledge), state(strategy.active), strategy._answers(images(learning))
            if name == "end_task":
                original(*arguments)

        monkeypatch.setattr(strategy, name, snapshot)

    for name, key in (("_begin_progress", "progress"), ("_begin_compress", "compress"), ("end_task", "end")):
        hook(name, key)
    return seen


# -- which part moves when -------------------------------------------------------------------------------------------


def check_phases(learning: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every task: the base stays in progress, the active column and its answers in compression, to the last bit."""
    seen = watch(learning, monkeypatch)
    while not learning.done:
        learning.run_task()
        for index, name in enumerate(("the base", "the active column")):
            begin, middle, end = (seen[key][index] for key in ("progress", "compress", "end"))
            still, moving = ((begin, middle), (middle, end)) if index == 0 else ((middle, end), (begin, middle))
            changed = [key for key, value in still[0].items() if not torch.equal(value, still[1][key])]
            assert not changed, f"{name} moved: {changed}"
            trunk = [key for key in moving[0] if key.startswith("network.backbone")]
            assert all(not torch.equal(moving[0][key], moving[1][key]) for key in trunk), f"{name} did not learn"
        assert torch.equal(seen["compress"][2], seen["end"][2]), "the teacher drifted"


@pytest.mark.parametrize("reinit", [False, True])
@pytest.mark.parametrize("scenario", ["task", "domain"])
def test_each_phase_moves_one_part(scenario: str, reinit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    check_phases(running(scenario, model=NORM, training=DECAY, options={"reinit": reinit}), monkeypatch)


class StepsBoth(ProgressCompress):
    """A mutant: the loss of progress reaches the base through the adaptors, and the base follows it."""

    def _progress(self, batch: Batch, at: Position) -> Losses:
        if self.task:
            self.active(batch.x, self.knowledge.taps(batch.x, {})).logsumexp(1).mean().backward()
            torch.optim.SGD(self.network.parameters(), 1e-3).step()
        return super()._progress(batch, at)


class KeepsBothTraining(ProgressCompress):
    """A mutant: the part that does not learn stays in training mode."""

    def train(self, mode: bool) -> None:
        self.knowledge.train(mode)
        self.active.train(mode)


class ReadsTheStudent(ProgressCompress):
    """A mutant: the teacher's adaptors read the base that it teaches."""

    def _begin_compress(self) -> None:
        super()._begin_compress()
        self._source = self.knowledge


@pytest.mark.parametrize(
    ("mutant", "caught"),
    [
        (StepsBoth, "the base moved.*backbone.1.weight"),
        (KeepsBothTraining, "moved.*running_mean"),
        (ReadsTheStudent, "the teacher drifted"),
    ],
)
def test_mutants_of_the_phases_are_caught(
    mutant: type[ProgressCompress], caught: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PATH, mutant)
    with pytest.raises(AssertionError, match=caught):
        check_phases(running(model=NORM, training=DECAY), monkeypatch)


class TrainsTheTeacher(ProgressCompress):
    """A mutant: the active column goes on to learn labels while it teaches."""

    def _compress(self, batch: Batch, at: Position) -> Losses:
        self._progress(batch, at)
        return super()._compress(batch, at)


def test_a_teacher_that_learns_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PATH, TrainsTheTeacher)
    with pytest.raises(AssertionError, match="the active column moved"):
        check_phases(running(training=DECAY), monkeypatch)


def adaptors_after_the_first_task(learning: Trainer) -> list[str]:
    """Names of those that moved."""
    before = state(method(learning).active)
    learning.run_task()
    return [name for name in moved(before, method(learning).active) if name.startswith("laterals")]


class ReadsAnEmptyBase(ProgressCompress):
    """A mutant: adaptors learn to read what has learned nothing."""

    def _answers(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            taps = self._source.taps(x, {})
        return self.active(x, taps)[:, : len(self._units)]


def test_adaptors_are_idle_in_the_first_task(monkeypatch: pytest.MonkeyPatch) -> None:
    learning = running()
    assert not adaptors_after_the_first_task(learning)
    before = state(method(learning).active)
    learning.run_task()
    assert "laterals.3.up.weight" in moved(before, method(learning).active)
    monkeypatch.setattr(PATH, ReadsAnEmptyBase)
    assert adaptors_after_the_first_task(running())


def started(scenario: str, reinit: bool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What of the active column is drawn anew when the second task begins."""
    learning = running(scenario, options={"reinit": reinit})
    seen = watch(learning, monkeypatch)
    learning.run_task()
    before = state(method(learning).active)
    learning.run_task()
    return [name for name, value in seen["progress"][1].items() if not torch.equal(value, before[name])]


def test_where_the_active_column_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    head = ["network.head.weight", "network.head.bias"]
    assert started("domain", False, monkeypatch) == []
    assert started("task", False, monkeypatch) == head
    for scenario in ("task", "domain"):
        assert {*head, "network.backbone.1.weight", "laterals.3.gate"} <= set(started(scenario, True, monkeypatch))


# -- what the base is taught -----------------------------------------------------------------------------------------


def check_distillation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of compression is T^2 KL(active || base), whatever the direction that is easier to write."""
    learning = running("task", options={"temperature": 3.0, "penalty": 0.0})
    errors = []

    class Checked(ProgressCompress):
        def _compress(self, batch: Batch, at: Position) -> Losses:
            with torch.no_grad():
                teacher, units = self._answers(batch.x) / 3, self._units
                student = self.network(batch.x)[:, units.start : units.stop] / 3
                expected = 9 * kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
            losses = super()._compress(batch, at)
            errors.append(float((losses["distillation"] - expected).abs() / expected))
            return losses

    learning.strategy.__class__ = Checked
    finish(learning)
    assert max(errors) < 1e-2


def test_the_base_learns_the_answers_of_the_active_column(monkeypatch: pytest.MonkeyPatch) -> None:
    check_distillation(monkeypatch)
    right = distilling.distillation

    def reversed_kl(student: Tensor, teacher: Tensor, *others: Any, **options: Any) -> Tensor:
        return right(teacher, student, *others, **options)

    monkeypatch.setattr("raycl.strategies.progress_compress.distillation", reversed_kl)
    with pytest.raises(AssertionError):
        check_distillation(monkeypatch)


def test_compression_on_all_rows_at_once_never_goes_up() -> None:
    training = {"optimizer": "sgd", "learning_rate": 0.05, "batch_size": 10_000, "iterations": 40}
    learning = running(training=training)
    found: list[float] = []

    class Watched(ProgressCompress):
        def _compress(self, batch: Batch, at: Position) -> Losses:
            losses = super()._compress(batch, at)
            found.append(float(losses["distillation"]))
            return losses

    learning.strategy.__class__ = Watched
    learning.run_task()
    assert len(found) == 40
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.9 * found[0]


def agreement(learning: Trainer, task: int) -> float:
    """The share of a task's rows on which the base and the active column say the same."""
    strategy = method(learning)
    x = evaluation_rows(learning, task).x
    strategy.train(False)
    with torch.no_grad():
        return float((strategy.network(x).argmax(1) == strategy._answers(x).argmax(1)).float().mean())


def test_without_a_penalty_the_base_becomes_the_active_column_and_forgets() -> None:
    learning = running(options={"penalty": 0.0}, **PERMUTED, seed=1)
    rows = [learning.run_task(), learning.run_task()][1]
    assert agreement(learning, 1) > 0.9
    held = running(options={"penalty": 1e3}, **PERMUTED, seed=1)
    kept = [held.run_task(), held.run_task()][1]
    assert kept[0].correct[0] > rows[0].correct[0] + 0.05 * rows[0].total[0]


def test_a_growing_penalty_holds_the_base() -> None:
    """Distances from the base after the first task, weighted by what mattered to it."""
    distances = []
    for penalty in (1.0, 1e2, 1e4, 1e8):
        learning = running(options={"penalty": penalty})
        learning.run_task()
        held = Quadratic()
        held.load_state_dict(method(learning).past.state_dict(), torch.device("cpu"))
        learning.run_task()
        distances.append(penalty_of(held, dict(method(learning).network.named_parameters())))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-2 * distances[0]


# -- who answers, and what it costs ----------------------------------------------------------------------------------


def check_answers(learning: Trainer) -> None:
    finish(learning)
    strategy, x = method(learning), images(learning)
    strategy.train(False)
    with torch.no_grad():
        answered = strategy.predict(x, None)
        strategy.active.apply(lambda part: [p.zero_() for p in part.parameters()] and None)
        assert torch.equal(strategy.predict(x, None), answered)
        assert torch.equal(answered, strategy.network(x))


class AnswersWithTheActiveColumn(ProgressCompress):
    """A mutant."""

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        return self._answers(x)


def test_the_knowledge_base_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    check_answers(running())
    monkeypatch.setattr(PATH, AnswersWithTheActiveColumn)
    with pytest.raises(AssertionError):
        check_answers(running())


def sizes(scenario: str) -> list[int]:
    return [row.cost.parameters for row in finish(running(scenario)) if row.task >= 0]


class KeepsActiveColumns(ProgressCompress):
    """A mutant: a column for every task, as in a progressive network."""

    def grow(self, task: int) -> None:
        super().grow(task)
        self.active.add_module(f"task {task}", copy.deepcopy(self.active.network))


def test_size_does_not_grow_with_tasks_but_for_the_heads_of_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    network = 64 * 32 + 32 + 32 * 24 + 24
    adaptors = sum(i * 8 + 8 + 8 * o + o for i, o in ((32, 24), (24, 2)))
    assert sizes("domain") == [2 * (network + 50) + adaptors] * 3
    assert sizes("task") == [2 * (network + 50) + adaptors + 50 * task for task in range(3)]
    monkeypatch.setattr(PATH, KeepsActiveColumns)
    assert len(set(sizes("domain"))) > 1


def test_both_phases_are_counted_and_compression_may_be_shorter() -> None:
    learning = running(training={"iterations": 20}, options={"compress_length": 0.5})
    assert [row.cost.updates for row in finish(learning) if row.task >= 0] == [30, 30, 30]


@cache
def naive() -> float:
    return matrix(trial("naive", "domain", **PERMUTED)).average_accuracy()


@pytest.mark.parametrize(
    "options", [{"reinit": True}, {"fisher": "sampled", "temperature": 1.0}], ids=["anew", "sampled"]
)
def test_it_forgets_less_than_naive_on_permuted_digits(options: dict[str, Any]) -> None:
    options = {"penalty": 1000.0, **options}
    assert matrix(trial("progress_compress", "domain", options=options, **PERMUTED)).average_accuracy() > naive() + 0.02


@pytest.mark.parametrize("scenario", ["task", "domain"])
@pytest.mark.parametrize("training", [DECAY, {"optimizer": "adam"}], ids=["sgd", "adam"])
def test_it_runs_where_moments_are_kept(scenario: str, training: dict[str, Any]) -> None:
    assert len(finish(running(scenario, training={**training, "reset_optimizer": False}))) == 4


def test_a_softmax_over_units_that_the_active_column_lacks_is_refused() -> None:
    with pytest.raises(SpecError, match=r"training\.active_logits: .*own task's head"):
        running("task", training={"active_logits": "seen"})
