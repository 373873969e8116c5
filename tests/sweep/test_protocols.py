"""Searches that judge by the first tasks of the stream, or on another one: what is learned, and what is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import local_source
from sweeping import HEAD, parsed

from raycl.errors import SpecError
from raycl.results.reading import matrices, read_trials
from raycl.results.store import ResultsFolder
from raycl.results.view import Results
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec
from raycl.sweep.backend import RunOptions
from raycl.sweep.run import run_sweep
from raycl.trial.trainer import Trainer

RATES = HEAD + "strategies:\n  METHOD: {training.learning_rate: {choice: [1e-4, 3e-3, 3e-2]}}\n"
SEARCH = "search: {protocol: PROTOCOL, trials: 3, seeds: [0]}\nfinal: {seeds: [10]}\n"


def protocol(given: str, method: str = "replay", more: str = "") -> SweepSpec:
    text = RATES.replace("METHOD", method) + SEARCH.replace("PROTOCOL", given)
    return parsed(text.replace("trials: 3", f"trials: 3{more}"))


def whole(spec: TrialSpec) -> TrialSpec:
    """The same trial to the end of the stream, every row measured."""
    every = spec.evaluation.model_copy(update={"every": 1})
    return spec.model_copy(update={"first_tasks": 0, "evaluation": every})


def learned(spec: TrialSpec, tasks: int | None = None) -> list[Any]:
    trainer = Trainer(spec, local_source(spec.stream, spec.seed))
    rows = []
    while not trainer.done and (tasks is None or trainer.next_task < tasks):
        rows += trainer.run_task()
    return rows


@pytest.mark.parametrize("method", ["naive", "replay", "ewc", "icarl", "gem"])
def test_what_is_judged_is_the_stream_itself_stopped_after_its_first_tasks(method: str) -> None:
    """The same heads, quotas and batches: the row after task k is that of the whole stream, to the bit."""
    sweep = protocol("{first_tasks: 2}", method)
    (entry,) = sweep.entries
    spec = sweep.trial(entry, {"training.learning_rate": 3e-3}, 0, "search")
    assert spec.first_tasks == 2
    rows, straight = learned(spec), learned(whole(spec), 2)
    assert [row.task for row in rows] == [-1, 0, 1]
    assert rows[-1].correct.tolist() == straight[-1].correct.tolist()
    assert rows[-1].total.tolist()[:2] == straight[-1].total.tolist()[:2]
    assert rows[-1].total.tolist()[2:] == [0, 0, 0], "nothing of later tasks is measured"
    assert len(rows[-1].total) == 5


def test_the_winner_is_the_best_after_these_tasks_and_reported_on_the_whole(tmp_path: Path) -> None:
    sweep = protocol("{first_tasks: 2}", "naive")
    assert run_sweep(sweep, tmp_path, backend="here", options=RunOptions()).complete
    (entry,) = sweep.entries
    expected = {}
    for rate in (1e-4, 3e-3, 3e-2):
        spec = sweep.trial(entry, {"training.learning_rate": rate}, 0, "search")
        row = learned(whole(spec), 2)[-1]
        expected[rate] = float(np.mean(row.correct[:2] / row.total[:2]))
    results = Results(str(tmp_path))
    winner = results.winners["naive"]
    assert winner["value"] == pytest.approx(max(expected.values()))
    assert winner["point"]["training.learning_rate"] == max(expected, key=lambda rate: expected[rate])
    trials = read_trials(tmp_path).to_pylist()
    assert {(row["phase"], row["tasks_done"], row["num_tasks"]) for row in trials} == {
        ("search", 2, 5),
        ("final", 5, 5),
    }
    (line,) = results.table.lines
    assert (line.scored_on, line.complete, len(line.trials)) == ("test", True, 1)
    final = next(row["trial"] for row in trials if row["phase"] == "final")
    assert not np.isnan(matrices(ResultsFolder.open(tmp_path))[final].accuracy[4]).any()
    again = run_sweep(sweep, tmp_path, backend="here", options=RunOptions())
    assert again.complete
    assert len(read_trials(tmp_path)) == len(trials)


def test_disjoint_reports_on_the_other_tasks_with_a_fresh_model() -> None:
    sweep = protocol("{first_tasks: {tasks: 2, disjoint: true}}", "naive")
    (entry,) = sweep.entries
    point = {"training.learning_rate": 3e-3}
    search, final = sweep.trial(entry, point, 0, "search"), sweep.trial(entry, point, 10, "final")
    assert (search.first_tasks, search.skipped_tasks) == (2, 0)
    assert (final.first_tasks, final.skipped_tasks) == (0, 2)
    source = local_source(final.stream, final.seed)
    trainer = Trainer(final, source)
    assert trainer.num_tasks == 3
    assert trainer.scenario.sizes == (2, 2, 2)
    rows = []
    while not trainer.done:
        rows += trainer.run_task()
    for task in range(3):
        assert rows[-1].total[task] == len(source.part(task + 2, "test").labels)
    assert trainer.layout.split_hash != Trainer(search, source).layout.split_hash
    plain = protocol("end_of_training", "naive")
    assert plain.trial(plain.entries[0], point, 10, "final").hash != final.hash


def test_transfer_searches_on_one_half_of_the_classes_and_reports_on_the_other(tmp_path: Path) -> None:
    text = (RATES.replace("METHOD", "naive") + SEARCH).replace(
        "{name: split, dataset: digits, tasks: 5, scenario: class, validation_fraction: 0.2}",
        "{name: split, dataset: digits, tasks: 2, classes_per_task: 2, class_order: [0, 1, 2, 3], scenario: class}",
    )
    sweep = parsed(text.replace("PROTOCOL", "{transfer: {stream: {class_order: [6, 7, 8, 9]}}}"))
    assert run_sweep(sweep, tmp_path, backend="here", options=RunOptions()).complete
    (entry,) = sweep.entries
    orders = {phase: sweep.trial(entry, entry.middle, 0, phase).stream["class_order"] for phase in ("search", "final")}
    assert orders == {"search": [6, 7, 8, 9], "final": [0, 1, 2, 3]}
    own = parsed(text.replace("PROTOCOL", "end_of_training"))
    assert (
        sweep.trial(entry, entry.middle, 10, "final").hash == own.trial(own.entries[0], entry.middle, 10, "final").hash
    )
    assert sweep.hash != own.hash
    splits = {row["phase"]: row["split_hash"] for row in read_trials(tmp_path).to_pylist()}
    assert splits["search"] != splits["final"]


@pytest.mark.parametrize(
    ("given", "method", "told"),
    [
        ("{first_tasks: 6}", "naive", "the stream has fewer tasks, of 5; judge by fewer (got 6)"),
        ("{first_tasks: {tasks: 5, disjoint: true}}", "naive", "must leave tasks to report on, of 5"),
        ("{first_tasks: 1}", "joint", "learns all tasks at once, so no first ones can judge it"),
        ("{first_tasks: 0}", "naive", "must be at least 1"),
        ("{transfer: {stream: {tasks: 2}}}", "naive", "as many classes in each as the stream that is reported on"),
        ("{transfer: {stream: {scenario: task}}}", "naive", "must have the scenario"),
        ("{transfer: {stream: {tasks: 5}}}", "naive", "must differ from the stream that is reported on"),
        ("{transfer: {stream: {angle: 5}}}", "naive", "search.protocol.transfer.stream.angle"),
        ("{first_tasks: 1, current_task: {}}", "naive", "first_tasks"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_trained(given: str, method: str, told: str) -> None:
    with pytest.raises(SpecError) as error:
        protocol(given, method)
    assert told in str(error.value)


PENALTY = "  ewc: {penalty: {choice: [1, 10, 100]}, training.learning_rate: {choice: [1e-3, 1e-2]}}\n"


def test_an_option_that_cannot_act_yet_is_not_searched_unless_its_points_may_tie(tmp_path: Path) -> None:
    """EWC's penalty does nothing on the first task: by it, all penalties are equally good."""
    text = HEAD + "strategies:\n" + PENALTY + SEARCH
    for tasks, more in ((2, ""), (1, ", inert: allow")):
        parsed(text.replace("PROTOCOL", f"{{first_tasks: {tasks}}}").replace("trials: 3", f"trials: 6{more}"))
    with pytest.raises(SpecError) as error:
        parsed(text.replace("PROTOCOL", "{first_tasks: 1}"))
    told = str(error.value)
    assert "strategies.ewc.penalty: cannot act on the first task, by which first_tasks judges" in told
    assert "what can act: training.learning_rate" in told
    tied = HEAD + "strategies:\n  ewc: {penalty: {choice: [1, 10, 100]}}\n" + SEARCH
    sweep = parsed(tied.replace("PROTOCOL", "{first_tasks: 1}").replace("trials: 3", "trials: 3, inert: allow"))
    assert run_sweep(sweep, tmp_path, backend="here", options=RunOptions()).complete
    rows = [row for row in read_trials(tmp_path).to_pylist() if row["phase"] == "search"]
    assert len(rows) == 3
    assert len({row["value"] for row in rows}) == 1
    assert Results(str(tmp_path)).winners["ewc"]["index"] == 0, "ties go to the lowest index"


def test_the_protocol_stands_in_the_hash_and_end_of_training_as_before() -> None:
    plain = parsed(RATES.replace("METHOD", "naive") + "search: {trials: 3, seeds: [0]}\nfinal: {seeds: [10]}\n")
    assert protocol("end_of_training", "naive").hash == plain.hash
    hashes = {protocol(given, "naive").hash for given in ("end_of_training", "{first_tasks: 1}", "{first_tasks: 2}")}
    assert len(hashes) == 3
