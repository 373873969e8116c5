"""Which cells of their matrices the trials of a sweep hold, and what happens when others are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from support import local_source
from sweeping import HEAD, TASKS, attempts, content, parsed

from raycl.results.reading import matrices, read_cells, read_trials
from raycl.results.store import ResultsFolder
from raycl.spec.evaluation import EvaluationConfig
from raycl.sweep.run import run_sweep
from raycl.trial.session import TrialSession

SEARCH = (
    HEAD
    + """
strategies: {naive: {training.learning_rate: {loguniform: [1e-4, 1e-2]}}}
search: {trials: 3, generation: 1, startup: 1, seeds: [0], finalists: {top: 2, seeds: [1]}}
final: {seeds: [10]}
"""
)
ALL = SEARCH + "evaluation: {search: all}\n"


def run(text: str, folder: Path) -> Path:
    assert run_sweep(parsed(text), folder, backend="here").complete
    return folder


@pytest.fixture(scope="module")
def needed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(SEARCH, tmp_path_factory.mktemp("cells") / "needed")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(ALL, tmp_path_factory.mktemp("cells") / "all")


def rows(folder: Path, phase: str) -> dict[str, set[int]]:
    """Trial -> the rows of its matrix that hold a cell."""
    trials = {row["trial"]: row["phase"] for row in read_trials(folder).to_pylist()}
    found: dict[str, set[int]] = {name: set() for name, own in trials.items() if own == phase}
    for cell in read_cells(folder).to_pylist():
        if cell["trial"] in found:
            found[cell["trial"]].add(cell["train_task"])
    return found


def cells(folder: Path) -> set[str]:
    return set(map(str, read_cells(folder).to_pylist()))


def test_search_and_finalist_trials_hold_the_last_row_and_final_trials_all(needed: Path) -> None:
    assert set(map(frozenset, rows(needed, "search").values())) == {frozenset({4})}
    assert set(map(frozenset, rows(needed, "finalists").values())) == {frozenset({4})}
    assert list(rows(needed, "final").values()) == [{0, 1, 2, 3, 4}]


def test_what_is_measured_changes_no_figure_and_names_no_trial(needed: Path, whole: Path) -> None:
    """Suggestions, winner and every shared cell are equal, to the bit."""
    few, all_ = read_trials(needed), read_trials(whole)
    columns = ["trial", "phase", "seed", "status", "value", "average_accuracy", "hp.training.learning_rate"]
    assert few.select(columns) == all_.select(columns)
    assert cells(needed) < cells(whole)
    assert ResultsFolder.open(needed).sweep_hash == ResultsFolder.open(whole).sweep_hash


def test_trials_that_hold_more_answer_a_question_that_needs_less(whole: Path) -> None:
    before = read_trials(whole)
    run(SEARCH, whole)
    assert set(attempts(whole).values()) == {1}
    assert read_trials(whole) == before


def test_trials_that_lack_cells_run_again_and_agree(needed: Path, whole: Path, tmp_path: Path) -> None:
    folder = run(SEARCH, tmp_path / "grown")
    for _ in range(2):
        run(ALL, folder)
        assert attempts(folder) == dict.fromkeys(attempts(folder), 2) | dict.fromkeys(rows(folder, "final"), 1)
        assert content(folder)[:2] == content(whole)[:2]
    run(SEARCH, folder)
    assert content(folder)[:2] == content(whole)[:2]


def test_the_check_finds_a_store_that_takes_fewer_cells_for_enough(
    needed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: whatever has ended answers every question."""
    folder = run(SEARCH, tmp_path / "grown")
    monkeypatch.setattr(EvaluationConfig, "covers", lambda *args: True)
    run(ALL, folder)
    assert set(attempts(folder).values()) == {1}


def test_metrics_that_were_not_measured_are_null_and_the_figures_say_over_what_they_are(needed: Path) -> None:
    trials = read_trials(needed)
    searched = trials.filter(pc.field("phase") == "search")
    assert searched["forgetting"].null_count == searched["learning_accuracy"].null_count == 3
    assert all('"measured": "the last row alone"' in told for told in searched["provenance"].to_pylist())
    final = trials.filter(pc.field("phase") == "final")
    assert final["forgetting"].null_count == 0
    assert "measured" not in final["provenance"][0].as_py()


def test_a_trial_half_done_is_begun_anew_where_more_is_asked_of_it(tmp_path: Path) -> None:
    """What an interrupted search left of a trial lacks rows that a search of all cells needs."""
    few, more = parsed(SEARCH), parsed(ALL)
    results = ResultsFolder.create(tmp_path / "half", few.dumps(), few.hash)
    specs = [sweep.trial(sweep.entries[0], {"training.learning_rate": 1e-3}, 0, "search") for sweep in (few, more)]
    for spec, steps in zip(specs, (2, TASKS), strict=True):
        session = TrialSession(local_source(spec.stream, spec.seed, train_on=spec.train_on), results.trial(spec))
        for _ in range(steps):
            session.step()
    assert specs[0].hash == specs[1].hash
    assert not np.isnan(matrices(results)[specs[1].hash].accuracy.diagonal()).any()
