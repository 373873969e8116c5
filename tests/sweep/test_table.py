"""Tables of everything: a design of points for each method, measured on both splits, of which nothing is selected."""

from __future__ import annotations

import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from sweeping import HEAD, decisions, parsed

from raycl.catalog import catalog
from raycl.cli.check import summary
from raycl.cli.export import export
from raycl.cli.show import report
from raycl.errors import SpecError, StoreError
from raycl.matrix import TaskRow
from raycl.results.packing import TESTED_FILE, pack
from raycl.results.reading import matrix_of, read_cells, read_tested, read_trials
from raycl.results.schema import from_parquet, rows_of, rows_table, to_parquet
from raycl.results.standing import standings
from raycl.results.store import ResultsFolder
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec
from raycl.sweep.data import reads
from raycl.sweep.designs import sobol_point
from raycl.sweep.ledger import Ledger
from raycl.sweep.run import run_sweep
from raycl.sweep.suggestions import sampler_seed
from raycl.trial.alone import run_trial

BRIEF = HEAD.replace("tasks: 5", "tasks: 3, classes_per_task: 2").replace("iterations: 20", "iterations: 6")
METHODS = """
strategies:
  naive: {}
  ewc: {penalty: {loguniform: [1, 1e6]}, training.learning_rate: {loguniform: [1e-4, 1e-1]}}
  replay: {memory.capacity: {choice: [10, 50, 100]}}
"""
TABLE = BRIEF + METHODS + "table: {points: 4, seeds: [0, 1]}\n"
TASKS = 3


def ran(text: str, folder: Path) -> SweepSpec:
    sweep = parsed(text)
    ending = run_sweep(sweep, folder, backend="here", trackers=("optuna",))
    assert ending.complete, ending.reason
    assert not ending.failed
    return sweep


def points(folder: Path, alias: str) -> list[dict[str, Any]]:
    """Those that are written down for a method, in order."""
    told = decisions(folder)
    return [told[path]["point"] for path in sorted(told) if path.split("/")[1].split("@")[0] == alias]


def printed(renderable: Any) -> str:
    text = StringIO()
    Console(file=text, width=200).print(renderable)
    return text.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "results"
    ran(TABLE, path)
    return path


def test_every_point_has_every_seed_and_small_spaces_are_whole(folder: Path) -> None:
    assert points(folder, "naive") == [{}]
    assert [point["memory.capacity"] for point in points(folder, "replay")] == [10, 50, 100]
    sweep = parsed(TABLE)
    assert sweep.table is not None
    entry = sweep.entry("ewc")
    scramble = sampler_seed(sweep.table.design, "ewc", 0)
    assert points(folder, "ewc") == [sobol_point(entry.space, index, scramble) for index in range(4)]
    assert len(read_trials(folder)) == 2 * (1 + 4 + 3)
    told = {key: sweep.runs(sweep.entry(key)).total for key in ("naive", "ewc", "replay")}
    assert told == {"naive": 2, "ewc": 8, "replay": 6}
    assert all(standing.ended for standing in standings(sweep, ResultsFolder.open(folder), _recall(sweep, folder)))


def _recall(sweep: SweepSpec, folder: Path) -> Any:
    return Ledger(ResultsFolder.open(folder)).record


def test_one_training_gives_what_a_search_trial_and_a_final_trial_would_measure(folder: Path) -> None:
    searched = parsed(BRIEF + METHODS + "search: {trials: 4}\nfinal: {seeds: [10]}\n")
    point = points(folder, "ewc")[2]
    (trial,) = (
        trial
        for trial in read_trials(folder).to_pylist()
        if trial["seed"] == 1 and trial["hp.penalty"] == point["penalty"]
    )
    for phase, read in (("search", read_cells), ("final", read_tested)):
        alone = run_trial(searched, "ewc", seed=1, point=point, phase=phase).matrix
        cells = read(folder)
        own = matrix_of(cells.filter([name == trial["trial"] for name in cells["trial"].to_pylist()]), TASKS)
        seen = np.tri(TASKS, dtype=bool)
        np.testing.assert_array_equal(own.accuracy[seen], alone.accuracy[seen])
        assert own.total is not None
        assert alone.total is not None
        np.testing.assert_array_equal(own.total[seen], alone.total[seen])


def test_its_rows_say_that_nothing_was_selected(folder: Path) -> None:
    found = read_trials(folder).to_pylist()
    assert {(trial["phase"], trial["scored_on"], trial["selected_by"]) for trial in found} == {
        ("table", "validation", "none")
    }
    assert not [path for path in decisions(folder) if path.startswith("winners")]
    text = printed(report([str(folder)]))
    assert "A table selects nothing" in text
    assert not {"%", "±"} & set(text), "no figure that could be taken for a result"
    with pytest.raises(StoreError, match="a table selects nothing, so ewc has no winner"):
        export(str(folder), "ewc", folder / "ewc.safetensors", None, folder)


def test_it_is_another_trial_than_one_that_was_never_given_test_data() -> None:
    sweep = parsed(BRIEF + METHODS + "search: {trials: 4}\n")
    entry, point = sweep.entry("replay"), {"memory.capacity": 50}
    plain, both = sweep.trial(entry, point, 0, "search"), parsed(TABLE).trial(entry, point, 0, "table")
    assert plain.also_on is None
    assert both.also_on == "test"
    assert both.hash != plain.hash
    assert TrialSpec.loads(both.model_copy(update={"also_on": None}).dumps()).hash == plain.hash
    assert {split for read in reads(sweep, sweep.entries, {}) for split in read.splits} == {"train", "validation"}
    table = parsed(TABLE)
    assert {read.splits for read in reads(table, table.entries, {})} == {("train", "validation", "test")}


def test_more_points_and_seeds_go_on_in_the_same_folder(folder: Path, tmp_path: Path) -> None:
    grown = tmp_path / "grown"
    shutil.copytree(folder, grown)
    before = points(grown, "ewc")
    ran(TABLE.replace("points: 4, seeds: [0, 1]", "points: 6, seeds: [0, 1, 2]"), grown)
    assert points(grown, "ewc")[:4] == before
    assert len(points(grown, "ewc")) == len({str(point) for point in points(grown, "ewc")}) == 6
    trials = {trial["trial"] for trial in read_trials(grown).to_pylist()}
    assert len(trials) == 3 * (1 + 6 + 3)
    assert trials > {trial["trial"] for trial in read_trials(folder).to_pylist()}
    assert all(len(list((grown / "trials" / name / "attempts").iterdir())) == 1 for name in trials), "none ran again"


def test_a_search_does_not_go_on_where_a_table_lies(tmp_path: Path) -> None:
    """Its suggestions would be the design's points, and a table's points what a search has suggested."""
    searched = BRIEF + METHODS + "search: {trials: 4}\n"
    for before, after in ((TABLE, searched), (searched, TABLE)):
        held = tmp_path / str(before == TABLE)
        sweep = parsed(before)
        ResultsFolder.create(held, sweep.dumps(), sweep.hash)
        with pytest.raises(StoreError, match=r"table .points of a design and suggestions of a search"):
            run_sweep(parsed(after), held, backend="here", trackers=())


def test_a_small_space_that_was_sampled_is_completed(tmp_path: Path) -> None:
    """Three of five points by the design, then those two that are left."""
    text = TABLE.replace("[10, 50, 100]", "[10, 20, 30, 40, 50]").replace("  naive: {}\n", "").replace("[0, 1]", "[0]")
    ran(text.replace("points: 4", "points: 3"), tmp_path / "results")
    before = points(tmp_path / "results", "replay")
    assert len({point["memory.capacity"] for point in before}) == 3
    ran(text.replace("points: 4", "points: 9"), tmp_path / "results")
    after = points(tmp_path / "results", "replay")
    assert after[:3] == before
    assert sorted(point["memory.capacity"] for point in after) == [10, 20, 30, 40, 50]


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ("search: {trials: 3}\n", "search: does not go with table: a table evaluates one design"),
        ("final: {seeds: [10]}\n", "final: does not go with table: a table selects nothing"),
        ("pruner: {grace_tasks: 1}\n", "pruner: prunes search trials, but there is no search"),
    ],
)
def test_what_chooses_or_scores_what_was_chosen_is_refused_beside_it(more: str, rule: str) -> None:
    with pytest.raises(SpecError) as error:
        SweepSpec.parse(TABLE + more, catalog())
    assert rule in str(error.value)


def test_a_seed_stands_once() -> None:
    with pytest.raises(SpecError, match="every seed may stand once"):
        SweepSpec.parse(TABLE.replace("[0, 1]", "[0, 0]"), catalog())


def test_check_counts_it_and_tells_what_it_costs() -> None:
    text = " ".join(printed(summary(parsed(TABLE), "")).split())
    assert "16 trials (points x 2 seeds), 48 trainings of a task" in text
    assert "3 points, all of them" in text
    assert "does not run" not in text


def test_a_point_over_a_limit_stays_and_is_not_run(tmp_path: Path) -> None:
    """1,706 numbers and 100 images of 64 bytes are over 12,000 bytes; with 50 of them they are not."""
    text = "\n".join(line for line in TABLE.splitlines() if not line.startswith("  ewc")).replace("[0, 1]", "[0]")
    limited = text + "\nlimits: {max_state_bytes: 12000}\n"
    sweep = ran(limited, tmp_path / "results")
    told = decisions(tmp_path / "results")
    refused = [told[path]["point"] for path in told if "refused" in told[path]]
    assert refused == [{"memory.capacity": 100}]
    (replay,) = (
        one
        for one in standings(sweep, ResultsFolder.open(tmp_path / "results"), _recall(sweep, tmp_path / "results"))
        if one.entry.key == "replay"
    )
    assert replay.ended
    assert [asked.failed for asked in replay.trials("table")] == [False, False], "what is not run is no trial"
    assert replay.failure == "", "points that fail are part of what a table tells"


def test_a_pack_holds_both_matrices(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "pack")
    tested = pq.read_table(tmp_path / "pack" / TESTED_FILE)
    assert tested.num_rows == pq.read_table(tmp_path / "pack" / "cells.parquet").num_rows == 16 * 6
    assert sorted(map(str, tested.to_pylist())) == sorted(map(str, read_tested(folder).to_pylist()))


def test_rows_keep_their_counts_on_test_data() -> None:
    counts = np.array([3, 0]), np.array([5, 0])
    rows = [TaskRow(-1, *counts), TaskRow(0, *counts, tested=(np.array([2, 0]), np.array([7, 0])))]
    back = rows_of(from_parquet(to_parquet(rows_table(rows)), "rows"))
    assert back[0].tested is None
    assert back[1].tested is not None
    assert [part.tolist() for part in back[1].tested] == [[2, 0], [7, 0]]
    assert "tested" not in rows_table(rows[:1]).column_names, "other trials have no such column"
