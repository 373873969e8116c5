"""A trial that chooses as it goes: what is trained on what, what is committed, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from strategies.every_method import ONE_EACH, assert_equal_state, small
from support import counts, finish, local_source, trainer, trial

from raycl.errors import DataError, MethodError
from raycl.matrix import TaskRow
from raycl.spec.protocols import Choosing, Decay, ProtocolConfig
from raycl.spec.trial import TrialSpec
from raycl.streams.task import Part, SplitName, TaskSource
from raycl.trial import checkpoint, choosing
from raycl.trial.choosing import TRAININGS, Bench, Chooser, Training, WithoutTest, WithValidation
from raycl.trial.trainer import Trainer

RATE = "training.learning_rate"


def spec_of(
    name: str,
    candidates: Sequence[Mapping[str, Any]],
    protocol: Mapping[str, Any] | None = None,
    scenario: str = "class",
    more: Mapping[str, Any] | None = None,
    **blocks: Any,
) -> TrialSpec:
    """A small trial that chooses among candidates."""
    rule = ProtocolConfig.model_validate(protocol or {"current_task": {}})
    plain = small(name, scenario, **blocks).with_values(candidates[0])
    asked = Choosing(protocol=rule, candidates=tuple(map(dict, candidates)), **(more or {}))
    return plain.model_copy(update={"choosing": asked})


def chooser(spec: TrialSpec, source: TaskSource | None = None) -> Chooser:
    return Chooser(spec, source or local_source(spec.stream, spec.seed), Trainer)


def finished(running: Chooser) -> list[TaskRow]:
    rows: list[TaskRow] = []
    for _ in range(running.committed.next_task, running.committed.num_tasks):
        rows += running.run_task()
    assert running.committed.done
    return rows


def plain(spec: TrialSpec, values: Mapping[str, Any] | None = None) -> TrialSpec:
    return spec.model_copy(update={"choosing": None}).with_values(values or {})


class Scripted:
    """Gives judgements by script instead of measuring: (task, candidate) -> accuracy."""

    def __init__(self, script: Mapping[tuple[int, int], float], monkeypatch: pytest.MonkeyPatch) -> None:
        train = Bench.train

        def judged(bench: Bench, stage: Any, candidate: int, values: Mapping[str, Any]) -> Training:
            made = train(bench, stage, candidate, values)
            assert made.row is not None
            tried = replace(made.tried, judged=script.get((made.row.task, candidate), 0.5))
            bench.tried[-1] = tried
            return replace(made, tried=tried)

        monkeypatch.setattr(Bench, "train", judged)


def kept(rows: Sequence[TaskRow]) -> list[int]:
    return [tried.candidate for row in rows for tried in row.tried if tried.kept]


@pytest.mark.parametrize(("name", "scenario"), ONE_EACH)
def test_with_one_candidate_it_is_a_plain_run_to_the_bit(name: str, scenario: str) -> None:
    spec = spec_of(name, [{}], scenario=scenario, seed=3)
    running, straight = chooser(spec), trainer(plain(spec))
    rows, expected = finished(running), finish(straight)
    assert counts(rows) == counts(expected)
    assert_equal_state(running.committed.state_dict(), straight.state_dict())
    counted = ("updates", "examples", "forward_examples", "gradient_examples", "state_bytes", "buffer_examples")
    for row, same in zip(rows, expected, strict=True):
        assert [getattr(row.cost, each) for each in counted] == [getattr(same.cost, each) for each in counted]


class TestGreedy:
    CANDIDATES = ({RATE: 1e-3}, {RATE: 3e-3}, {RATE: 1e-2})
    SCRIPT = {(0, 2): 0.9, (1, 1): 0.8, (1, 2): 0.7, (2, 0): 0.6}

    def test_each_task_is_learned_from_what_was_committed_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The best at each task: 2, 1, 0. So the matrix is that of one run whose rate changes between tasks."""
        Scripted(self.SCRIPT, monkeypatch)
        spec = spec_of("derpp", self.CANDIDATES, seed=5)
        running = chooser(spec)
        rows = finished(running)
        assert kept(rows) == [2, 1, 0]
        expected, straight = by_hand(spec, [2, 1, 0])
        assert counts(rows) == counts(expected)
        assert_equal_state(running.committed.state_dict(), straight.state_dict())

    def test_all_trainings_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Scripted(self.SCRIPT, monkeypatch)
        spec = spec_of("naive", self.CANDIDATES)
        rows, one = finished(chooser(spec)), finish(trainer(plain(spec)))
        assert [row.measures.get(TRAININGS) for row in rows] == [None, 3.0, 6.0, 9.0]
        for row, single in zip(rows[1:], one[1:], strict=True):
            assert row.cost.updates == 3 * single.cost.updates
            assert row.cost.examples == 3 * single.cost.examples
            assert row.cost.gradient_examples == 3 * single.cost.gradient_examples  # type: ignore[operator]
            assert row.cost.parameters == single.cost.parameters

    def test_a_budget_is_that_of_each_training(self) -> None:
        training = {"epochs": None, "budget": {"gradient_examples": 60}}
        rows = finished(chooser(spec_of("naive", self.CANDIDATES, training=training)))
        assert [row.cost.budget_spent for row in rows[1:]] == [180] * 3

    def test_ties_go_to_the_lowest_index(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Scripted({(1, 1): 0.7, (1, 2): 0.7}, monkeypatch)
        assert kept(finished(chooser(spec_of("naive", self.CANDIDATES)))) == [0, 1, 0]

    def test_a_candidate_that_fails_is_out_and_a_trial_fails_with_the_last_of_them(self) -> None:
        training = {"optimizer": "sgd", "epochs": 3}
        rows = finished(chooser(spec_of("naive", [{RATE: 1e30}, {RATE: 1e-2}], training=training)))
        assert kept(rows) == [1, 1, 1]
        assert all(row.tried[0].failure and row.tried[0].judged is None for row in rows[1:])
        alone = finish(trainer(plain(spec_of("naive", [{RATE: 1e-2}], training=training))))
        assert all(row.cost.updates > own.cost.updates for row, own in zip(rows[1:], alone[1:], strict=True))
        with pytest.raises(MethodError, match="every candidate failed"):
            finished(chooser(spec_of("naive", [{RATE: 1e30}, {RATE: 1e35}], training=training)))

    def test_current_task_looks_at_the_task_alone_and_seen_tasks_at_all(self) -> None:
        """A rate of nothing keeps the first task and learns none; a large one learns, and forgets."""
        candidates = [{RATE: 1e-2}, {RATE: 1e-12}]
        greedy = finished(chooser(spec_of("naive", candidates, scenario="domain", training={"epochs": 8})))
        assert kept(greedy) == [0, 0, 0]
        rows = finished(
            chooser(spec_of("naive", candidates, {"seen_tasks": {}}, scenario="domain", training={"epochs": 8}))
        )
        for row in rows[1:]:
            own = measured_on(rows, row, candidates)
            assert [tried.judged for tried in row.tried] == [pytest.approx(value) for value in own]

    def test_the_memory_may_judge_earlier_tasks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of earlier tasks the rows that the memory held as the task began; of this one its validation rows."""
        asked: list[list[int]] = []
        on = Trainer.counts_on

        def counts_on(self: Trainer, rows: Any) -> Any:
            asked.append(rows["task"].unique().tolist() if rows else [])
            return on(self, rows)

        monkeypatch.setattr(Trainer, "counts_on", counts_on)
        spec = spec_of("replay", self.CANDIDATES[:2], {"seen_tasks": {"judge": "memory"}})
        rows = finished(chooser(spec))
        assert asked == [[], [], [0], [0], [0, 1], [0, 1]]
        assert all(0 < tried.judged <= 1 for row in rows[1:] for tried in row.tried)  # type: ignore[operator]


def by_hand(spec: TrialSpec, chosen: Sequence[int]) -> tuple[list[TaskRow], Trainer]:
    """One run, whose state is handed to a trainer of other options between two tasks."""
    assert spec.choosing is not None
    rows: list[TaskRow] = []
    state = None
    for candidate in chosen:
        running = trainer(plain(spec, spec.choosing.candidates[candidate]))
        if state is not None:
            running.load_state_dict(checkpoint.decode(state))
        rows += running.run_task()
        state = checkpoint.encode(running.state_dict())
    return rows, running


def measured_on(rows: Sequence[TaskRow], row: TaskRow, candidates: Sequence[Mapping[str, Any]]) -> list[float]:
    """Average validation accuracy over the tasks so far of each candidate, trained by hand."""
    chosen = kept(rows)[: row.task]
    found = []
    for candidate in range(len(candidates)):
        spec = spec_of("naive", candidates, scenario="domain", training={"epochs": 8}, score_on="validation")
        last = by_hand(spec, [*chosen, candidate])[0][-1]
        seen = slice(0, row.task + 1)
        found.append(float(np.mean(last.correct[seen] / last.total[seen])))
    return found


class TestData:
    def test_candidates_cannot_read_test_rows(self) -> None:
        spec = trial("naive")
        held = WithoutTest(local_source(spec.stream, 0))
        assert len(held.part(0, "validation"))
        with pytest.raises(DataError, match="may not read test data"):
            held.part(0, "test")
        with pytest.raises(DataError, match="may not read test data"):
            WithValidation(held.source).part(0, "test")

    def test_only_the_committed_state_is_scored_on_test_rows(self) -> None:
        read: list[tuple[int, SplitName]] = []

        class Watched(WithoutTest):
            def part(self, task: int, split: SplitName) -> Part:
                read.append((task, split))
                return self.source.part(task, split)

        spec = spec_of("naive", [{RATE: 1e-3}, {RATE: 1e-2}])
        running = chooser(spec, Watched(local_source(spec.stream, 0)))
        running.run_task()
        splits = [split for _, split in read]
        assert splits.count("validation") == 2, "once a candidate"
        tests = [place for place, split in enumerate(splits) if split == "test"]
        trained = [place for place, split in enumerate(splits) if split != "test"]
        assert all(place < min(trained) or place > max(trained) for place in tests), "before and after, never between"

    def test_retraining_takes_all_rows_from_the_committed_state(self) -> None:
        """One candidate, retrained at every task, is a plain run on training and validation rows."""
        spec = spec_of("replay", [{}], {"current_task": {"retrain": True}})
        running = chooser(spec)
        rows = finished(running)
        merged = trainer(plain(spec).model_copy(update={"train_on": "train_and_validation"}))
        assert counts(rows) == counts(finish(merged))
        assert running.committed.strategy.memory.labels.tolist() == merged.strategy.memory.labels.tolist()
        assert [tried.stage for tried in rows[-1].tried] == ["candidate", "retrain"]
        assert rows[-1].measures[TRAININGS] == 6


class TestMutants:
    """What the tests above would see."""

    SPEC = spec_of("derpp", TestGreedy.CANDIDATES, seed=5)

    def judged(self) -> list[float | None]:
        return [tried.judged for row in finished(chooser(self.SPEC)) for tried in row.tried]

    def test_going_on_from_its_own_past_is_another_thing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The mutant is plain search: candidates of a later task do not start from what was committed."""
        Scripted(TestGreedy.SCRIPT, monkeypatch)
        rows = finished(chooser(self.SPEC))
        alone = [finish(trainer(plain(self.SPEC, values))) for values in TestGreedy.CANDIDATES]
        assert all(counts(rows) != counts(own) for own in alone)

    def test_other_batches_for_each_candidate_change_what_equal_candidates_come_to(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Equal candidates must come to equal states; a generator that went on would tell them apart."""
        spec = spec_of("derpp", [{}, {}], seed=5)
        states: list[Mapping[str, bytes]] = []
        encode = checkpoint.encode
        monkeypatch.setattr(choosing.checkpoint, "encode", lambda state: states.append(encode(state)) or states[-1])
        running = chooser(spec)
        running.run_task()
        running.run_task()
        assert states[0] == states[1]
        assert states[2] == states[3]


@pytest.mark.parametrize("name", ["ewc", "derpp"])
def test_a_resumed_choice_equals_one_that_was_never_stopped(name: str) -> None:
    spec = spec_of(name, TestGreedy.CANDIDATES, {"seen_tasks": {}}, seed=5)
    whole = chooser(spec)
    rows, stopped, current = finished(whole), [], chooser(spec)
    while True:
        stopped += current.run_task()
        if current.committed.done:
            break
        files = checkpoint.encode(current.state_dict())
        current.close()
        current = chooser(spec)
        current.load_state_dict(checkpoint.decode(files))
    assert counts(stopped) == counts(rows)
    assert [row.tried for row in stopped] == [row.tried for row in rows]
    assert_equal_state(current.state_dict(), whole.state_dict())


class TestStabilityDecay:
    GRID = ({RATE: 1e-4}, {RATE: 1e-2}, {RATE: 3e-3})

    def spec(self, **rule: Any) -> TrialSpec:
        more = {"decays": (Decay(option="penalty"),), "plastic": {"penalty": 0.0}}
        options = {"penalty": 64.0}
        return spec_of("ewc", self.GRID, {"stability_decay": rule}, "domain", more, options=options, seed=2)

    def scripted(self, judged: Mapping[int, Sequence[float]], monkeypatch: pytest.MonkeyPatch) -> None:
        """Task -> what its trainings are judged, in order."""
        left = {task: list(values) for task, values in judged.items()}
        monkeypatch.setattr(
            Chooser, "_judge", lambda self: lambda trainer, row: left[row.task].pop(0) if left.get(row.task) else 1.0
        )

    def test_the_best_rate_of_fine_tuning_and_then_ever_less_penalty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Task 2: fine-tuning 0.6, 0.9, 0.7, so 0.72 is asked for; the method 0.1, 0.7, 0.75: its third training."""
        self.scripted({1: [0.6, 0.9, 0.7, 0.1, 0.7, 0.75]}, monkeypatch)
        rows = finished(chooser(self.spec()))
        second = rows[2].tried
        assert [own.stage for own in second] == ["plastic"] * 3 + ["stable"] * 3
        assert [own.candidate for own in second] == [0, 1, 2, 1, 1, 1]
        assert [own.values["penalty"] for own in second] == [0, 0, 0, 64, 32, 16]
        assert {own.values[RATE] for own in second[3:]} == {1e-2}
        assert [own.kept for own in second] == [False] * 5 + [True]
        assert rows[3].tried[3].values["penalty"] == 16, "the next task begins there"
        assert [row.measures.get(TRAININGS) for row in rows] == [None, 4, 10, 14]

    def test_what_is_kept_is_a_direct_run_with_these_values(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From the committed model, neither from scratch nor from the training before."""
        self.scripted({1: [0.6, 0.9, 0.7, 0.1, 0.7, 0.75]}, monkeypatch)
        spec = self.spec()
        running = chooser(spec)
        running.run_task()
        running.run_task()
        first = trainer(plain(spec, {RATE: 1e-4, "penalty": 64.0}))
        first.run_task()
        direct = trainer(plain(spec, {RATE: 1e-2, "penalty": 16.0}))
        direct.load_state_dict(checkpoint.decode(checkpoint.encode(first.state_dict())))
        direct.run_task()
        assert_equal_state(running.committed.state_dict(), direct.state_dict())
        scratch = trainer(plain(spec, {RATE: 1e-2, "penalty": 16.0}))
        scratch.run_task()
        scratch.run_task()
        with pytest.raises(AssertionError):
            assert_equal_state(running.committed.state_dict(), scratch.state_dict())

    def test_the_last_permitted_training_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scripted({1: [0.9] * 3 + [0.1] * 5}, monkeypatch)
        rows = finished(chooser(self.spec(trainings=2)))
        assert [own.values["penalty"] for own in rows[2].tried if own.stage == "stable"] == [64, 32]
        assert rows[2].tried[-1].kept
        assert rows[3].tried[3].values["penalty"] == 16, "their code decays once more"

    def test_the_rule_survives_a_stop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        script = {1: [0.6, 0.9, 0.7, 0.1, 0.7, 0.75], 2: [0.9] * 3 + [0.1, 0.8]}
        self.scripted(script, monkeypatch)
        whole = chooser(self.spec())
        rows = finished(whole)
        self.scripted(script, monkeypatch)
        first = chooser(self.spec())
        first.run_task()
        first.run_task()
        second = chooser(self.spec())
        second.load_state_dict(checkpoint.decode(checkpoint.encode(first.state_dict())))
        (row,) = second.run_task()
        assert row.tried == rows[3].tried
        assert [own.values["penalty"] for own in row.tried[3:]] == [16, 8]
        assert_equal_state(second.state_dict(), whole.state_dict())

    def test_a_method_without_stability_keeps_its_best_rate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scripted({0: [0.2, 0.9, 0.9], 1: [0.3, 0.2, 0.1], 2: [0.1, 0.2, 0.3]}, monkeypatch)
        rows = finished(chooser(spec_of("naive", self.GRID, {"stability_decay": {}})))
        assert kept(rows) == [1, 0, 2]
        assert [own.stage for own in rows[1].tried] == ["plastic"] * 3
