"""Sweeps whose final trials choose as they go: what is planned, written down, kept and shown."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sweeping import HEAD, content, decisions, ledger, parsed

from raycl.cli.check import summary
from raycl.cli.export import export
from raycl.errors import InfrastructureError, SpecError
from raycl.matrix import Tried
from raycl.models.weights import WEIGHTS_SUFFIX, load_weights
from raycl.results.comparison import lines
from raycl.results.decisions import suggestion_path
from raycl.results.reading import read_choices, read_trials
from raycl.results.standing import standings
from raycl.results.store import ResultsFolder
from raycl.results.trial_store import TrialStore
from raycl.spec.choosing import choosing_trial, grid, trainings
from raycl.spec.sweep import SweepSpec
from raycl.sweep.backend import RunOptions
from raycl.sweep.plan import EntryPlan
from raycl.sweep.run import run_sweep

BRIEF = HEAD.replace("tasks: 5", "tasks: 3, classes_per_task: 2").replace("iterations: 20", "iterations: 6")
GREEDY = (
    BRIEF
    + """
strategies:
  ewc: {penalty: {loguniform: [1, 1e6]}, training.learning_rate: {choice: [1e-3, 1e-2]}}
  naive: {}
search: {protocol: current_task, trials: 3}
final: {seeds: [0, 1]}
"""
)
DECAY = (
    BRIEF.replace("learning_rate: 2e-3", "learning_rate: {choice: [1e-5, 1e-2]}")
    + """
strategies:
  ewc: {penalty: 1e9}
  naive: {}
search: {protocol: {stability_decay: {trainings: 3, drop: 0.05}}}
final: {seeds: [0]}
"""
)


def ran(text: str, folder: Path) -> SweepSpec:
    sweep = parsed(text)
    ending = run_sweep(sweep, folder, backend="here", trackers=("optuna",), options=RunOptions())
    assert ending.complete, ending.reason
    return sweep


def rows(folder: Path) -> list[dict[str, Any]]:
    return read_choices(folder).to_pylist()


def drawn_points(folder: Path) -> list[dict[str, Any]]:
    """The candidates that are written down."""
    told = decisions(folder)
    return [told[suggestion_path(parsed(GREEDY).entry("ewc"), index)]["point"] for index in range(3)]


@pytest.fixture(scope="module")
def greedy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("greedy") / "results"
    ran(GREEDY, folder)
    return folder


def test_candidates_are_drawn_once_and_stand_in_every_trial(greedy: Path) -> None:
    told = decisions(greedy)
    points = drawn_points(greedy)
    assert len(told) == 3, "nothing is drawn for a method with nothing to choose, and no winner is named"
    sweep = parsed(GREEDY)
    specs = [choosing_trial(sweep, sweep.entry("ewc"), points, seed) for seed in (0, 1)]
    for spec in specs:
        assert spec.choosing is not None
        assert [dict(values) for values in spec.choosing.candidates] == points
        assert ResultsFolder.open(greedy).trial(spec).verdict() is not None
    assert len({spec.hash for spec in specs}) == 2


def test_every_training_is_a_row_and_the_trial_says_how_many(greedy: Path) -> None:
    found, trials = rows(greedy), read_trials(greedy).to_pylist()
    assert len(found) == 2 * 3 * 3, "seeds x tasks x candidates"
    for trial in (trial for trial in trials if trial["alias"] == "ewc"):
        own = [row for row in found if row["trial"] == trial["trial"]]
        assert [(row["train_task"], row["candidate"]) for row in own] == [(t, c) for t in range(3) for c in range(3)]
        for task in range(3):
            judged = [row["judged"] for row in own if row["train_task"] == task]
            kept = [row["candidate"] for row in own if row["train_task"] == task and row["kept"]]
            assert kept == [judged.index(max(judged))]
        assert trial["measure.task_trainings"] == 9
        assert trial["updates"] == 3 * 3 * 6
        assert trial["selected_by"] == "validation"
        assert trial["scored_on"] == "test"
        assert "hp.penalty" not in trial, "it differs from task to task"
        assert {"penalty", "training.learning_rate"} == json.loads(own[0]["values"]).keys()


def test_a_method_with_nothing_to_choose_is_a_plain_trial(greedy: Path) -> None:
    (trial,) = (trial for trial in read_trials(greedy).to_pylist() if trial["alias"] == "naive" and trial["seed"] == 0)
    sweep = parsed(GREEDY)
    assert trial["trial"] == sweep.trial(sweep.entry("naive"), {}, 0, "final").hash
    assert trial["updates"] == 18


def test_the_table_shows_every_method_over_its_final_seeds(greedy: Path) -> None:
    found = {line.alias: line for line in lines(ResultsFolder.open(greedy))}
    assert {alias: (line.scored_on, len(line.trials)) for alias, line in found.items()} == dict.fromkeys(
        ("ewc", "naive"), ("test", 2)
    )
    book = ledger(parsed(GREEDY), greedy)
    stand = standings(parsed(GREEDY), book.results, book.record)
    assert [(one.ended, len(one.final), one.failure) for one in stand] == [(True, 2, "")] * 2
    assert all(EntryPlan(parsed(GREEDY), entry, book).wanted() is None for entry in parsed(GREEDY).entries)


def test_nothing_is_there_before_candidates_are_drawn(tmp_path: Path) -> None:
    book = ledger(parsed(GREEDY), tmp_path)
    ewc, naive = standings(parsed(GREEDY), book.results, book.record)
    assert (ewc.ended, ewc.final) == (False, ())
    assert (naive.ended, len(naive.final)) == (False, 2)


def test_a_killed_sweep_goes_on_to_the_same_folder(
    greedy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage goes away at every second task; the same command goes on from the task before."""
    write, calls = TrialStore.write_task, [0]

    def away(self: TrialStore, *args: Any, **options: Any) -> None:
        calls[0] += 1
        if calls[0] % 2 == 0:
            raise InfrastructureError("away")
        write(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TrialStore, "write_task", away)
        ran(GREEDY, tmp_path / "results")
    assert calls[0] > 12
    assert content(tmp_path / "results") == content(greedy)
    assert rows(tmp_path / "results") == rows(greedy)


def test_stability_decay_keeps_the_last_training_and_carries_its_penalty_on(tmp_path: Path) -> None:
    ran(DECAY, tmp_path)
    trials = {trial["alias"]: trial for trial in read_trials(tmp_path).to_pylist()}
    found = [row for row in rows(tmp_path) if row["trial"] == trials["ewc"]["trial"]]
    stages = [[row["stage"] for row in found if row["train_task"] == task] for task in range(3)]
    assert all(own[:2] == ["plastic"] * 2 and set(own[2:]) == {"stable"} for own in stages)
    assert stages[0] == ["plastic", "plastic", "stable"], "the penalty does nothing to the first task"
    penalties = [json.loads(row["values"])["penalty"] for row in found]
    assert {value for row, value in zip(found, penalties, strict=True) if row["stage"] == "plastic"} == {0.0}
    tried = [value for row, value in zip(found, penalties, strict=True) if row["stage"] == "stable"]
    assert tried == [1e9 / 2**fall for fall in (0, *range(len(tried) - 1))], "it starts where the last task left it"
    best = max(row["judged"] for row in found if row["train_task"] == 1 and row["stage"] == "plastic")
    last = [row for row in found if row["train_task"] == 1][-1]
    assert last["kept"]
    assert last["judged"] >= 0.95 * best or len(stages[1]) == 5
    naive = [row for row in rows(tmp_path) if row["trial"] == trials["naive"]["trial"]]
    assert [row["stage"] for row in naive] == ["plastic"] * 6
    assert trials["naive"]["measure.task_trainings"] == 6


def test_what_each_protocol_costs_is_known_before() -> None:
    sweep, decay = parsed(GREEDY), parsed(DECAY)
    assert trainings(sweep, sweep.entry("ewc"), 5) == (15, 15)
    assert trainings(sweep, sweep.entry("naive"), 5) == (5, 5)
    retrained = parsed(GREEDY.replace("current_task,", "{current_task: {retrain: true}},"))
    assert trainings(retrained, retrained.entry("ewc"), 5) == (20, 20)
    assert trainings(decay, decay.entry("ewc"), 5) == (15, 25)
    assert trainings(decay, decay.entry("naive"), 5) == (10, 10)
    assert grid(decay.entry("ewc")) == [{"training.learning_rate": 1e-5}, {"training.learning_rate": 1e-2}]


REFUSED = {
    "no final phase": (GREEDY.replace("final: {seeds: [0, 1]}", ""), "search.protocol"),
    "validation rows are learned": (GREEDY.replace("[0, 1]}", "[0, 1], train_on: train_and_validation}"), "train_on"),
    "a width": (GREEDY.replace("hidden: [24]", "hidden: {choice: [[24], [32]]}"), "cannot change between two tasks"),
    "a capacity": (
        GREEDY.replace("naive: {}", "replay: {memory.capacity: {choice: [20, 50]}}"),
        "cannot change between",
    ),
    "it never acts": (
        GREEDY.replace("tasks: 3", "tasks: 2").replace(
            "penalty: {loguniform: [1, 1e6]}", "mode: online, online_decay: {uniform: [0.5, 1]}"
        ),
        "does nothing before the stream of 2 tasks has ended",
    ),
    "measured inside": (GREEDY + "evaluation: {inside: {updates: 3}}\n", "evaluation.inside"),
    "hidden ends": (
        GREEDY.replace("scenario: class", "scenario: class, boundaries: hidden")
        .replace("ewc", "replay")
        .replace("penalty: {loguniform: [1, 1e6]}, ", ""),
        "nobody tells where one ends",
    ),
    "a penalty is drawn": (DECAY.replace("penalty: 1e9", "penalty: {loguniform: [1, 10]}"), "starts from the values"),
    "a rate without a grid": (DECAY.replace("choice: [1e-5, 1e-2]", "loguniform: [1e-5, 1e-2]"), "choice: [...]"),
    "no stability": (
        DECAY.replace("naive", "hat").replace("scenario: class", "scenario: task"),
        "does not say which",
    ),
    "no memory": (GREEDY.replace("current_task,", "{seen_tasks: {judge: memory}},"), "keeps no examples"),
    "two protocols": (GREEDY.replace("current_task,", "{current_task: {}, seen_tasks: {}},"), "set one of"),
    "a word that is none": (GREEDY.replace("current_task,", "curent_task,"), "current_task"),
}


@pytest.mark.parametrize(("text", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_work_is_refused(text: str, told: str) -> None:
    with pytest.raises(SpecError, match="(?s)" + told.replace("[", r"\[").replace(".", r"\.")):
        parsed(text)


def test_what_does_nothing_under_such_a_protocol_is_told() -> None:
    told = "\n".join(parsed(GREEDY.replace("trials: 3", "trials: 3, startup: 2, seeds: [7]")).warnings)
    assert "search.startup" in told
    assert "search.seeds" in told
    assert "nothing is searched before the final phase" in told


def test_the_protocol_is_named_by_the_trial_alone_where_it_is_another() -> None:
    plain, chosen = parsed(GREEDY.replace("protocol: current_task, ", "").replace("[0, 1]", "[10, 11]")), parsed(GREEDY)
    spelled = parsed(GREEDY.replace("current_task,", "{current_task: {retrain: false}},"))
    point = {"penalty": 2.0, "training.learning_rate": 1e-3}
    specs = [choosing_trial(sweep, sweep.entry("ewc"), [point], 10) for sweep in (chosen, spelled)]
    assert specs[0].hash == specs[1].hash != plain.trial(plain.entry("ewc"), point, 10, "final").hash
    assert plain.hash == parsed(plain.text.replace("search: {", "search: {protocol: end_of_training, ")).hash


def test_rows_hold_what_was_tried(greedy: Path) -> None:
    sweep = parsed(GREEDY)
    points = drawn_points(greedy)
    stored = ResultsFolder.open(greedy).trial(choosing_trial(sweep, sweep.entry("ewc"), points, 0)).rows()
    assert [len(row.tried) for row in stored] == [0, 3, 3, 3]
    assert all(isinstance(own, Tried) and own.values == points[own.candidate] for row in stored for own in row.tried)


def test_check_says_what_a_protocol_costs() -> None:
    shown = Console(width=200, record=True, file=StringIO())
    shown.print(summary(parsed(DECAY), ""))
    text = shown.export_text()
    assert "stability_decay: trainings of a task in each final trial, ewc 9 to 15, naive 6" in text
    assert "search: the last row alone" not in text


def test_a_backbone_is_exported_from_what_was_committed_last(tmp_path: Path) -> None:
    ran(GREEDY.replace("seeds: [0, 1]", "seeds: [0], keep_checkpoints: true"), tmp_path / "results")
    export(str(tmp_path / "results"), "ewc", tmp_path / f"ewc{WEIGHTS_SUFFIX}", None, None)
    assert load_weights(str(tmp_path / f"ewc{WEIGHTS_SUFFIX}"), None).origin["strategy"] == "ewc"
