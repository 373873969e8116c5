"""Results packed into two files: the same tables, the sweep along with them, and nothing torn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from results.made_results import HEAD, Made, rows, spec

from raycl.errors import TornFile
from raycl.results.packing import pack
from raycl.results.reading import matrix_of, read_cells, read_trials
from raycl.results.store import ResultsFolder
from raycl.spec.trial import TrialSpec


def test_the_two_files_are_the_whole_data_set(
    results: ResultsFolder, record: Callable[..., TrialSpec], tmp_path: Path
) -> None:
    for seed in (10, 11):
        record(spec(seed=seed), rows(seed))
    target = tmp_path / "kept" / "here"
    assert pack(results, target) == (2, read_cells(results).num_rows)
    trials, cells = pq.read_table(target / "trials.parquet"), pq.read_table(target / "cells.parquet")
    assert trials.drop_columns("entries").to_pylist() == read_trials(results).to_pylist()
    assert cells.to_pylist() == read_cells(results).to_pylist()
    for trial in trials.to_pylist():
        own = cells.filter([name == trial["trial"] for name in cells["trial"].to_pylist()])
        assert matrix_of(own, trial["num_tasks"]).average_accuracy() == trial["average_accuracy"]
    assert json.loads(cells.schema.metadata[b"raycl.sweep"])["name"] == "tiny"


def test_a_trial_that_methods_share_names_them_all(tmp_path: Path) -> None:
    method = "{strategy: replay, memory.capacity: {choice: [50, 100]}}"
    text = f"{HEAD}strategies: {{first: {method}, second: {method}}}\nsearch: {{trials: 1}}\n"
    made = Made(tmp_path / "shared", text)
    made.suggest("first", [50])
    made.suggest("second", [50])
    made.end("second", 50, 0, 20.0)
    made.end("first", 50, 7, 20.0)
    pack(made.results, tmp_path)
    packed = {trial["seed"]: trial for trial in pq.read_table(tmp_path / "trials.parquet").to_pylist()}
    assert (packed[0]["alias"], packed[0]["entries"]) == ("second", ["first", "second"])
    assert packed[7]["entries"] == [], "nobody asks for it"


def test_packing_again_replaces(results: ResultsFolder, record: Callable[..., TrialSpec], tmp_path: Path) -> None:
    record(spec(seed=10), rows())
    pack(results, tmp_path)
    record(spec(seed=11), rows())
    assert pack(results, tmp_path)[0] == len(pq.read_table(tmp_path / "trials.parquet")) == 2


def test_damaged_results_are_not_packed(
    results: ResultsFolder, record: Callable[..., TrialSpec], tmp_path: Path
) -> None:
    trial = record(spec(), rows())
    part = tmp_path / "results" / "parts" / "cells" / f"{trial.hash}.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(TornFile):
        pack(results, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
