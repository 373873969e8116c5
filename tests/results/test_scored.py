"""How often test data were looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from results.made_results import rows, spec

from raycl.results.scored import SPLITS, times_scored
from raycl.results.store import ResultsFolder
from raycl.results.tables import comparison


def test_every_score_on_test_data_counts(results: ResultsFolder, record: Callable[..., Any]) -> None:
    """Two splits: two methods on the first, one of them at two points; a failure after a task saw its score too, and so
    did a trial of a table, which is measured on both."""
    assert times_scored(results).equals(SPLITS.empty_table())
    record(spec(seed=10), rows(), split_hash="aa")
    record(spec(seed=10, options={"penalty": 20.0}), rows(), split_hash="aa")
    record(spec("naive", seed=10, options={}), rows(), split_hash="aa")
    record(spec(seed=11), rows(), split_hash="bb")
    record(spec("naive", seed=11, options={}), rows()[:3], split_hash="bb", status="failed", reason="no")
    record(spec("si", seed=11, options={}), [], split_hash="bb", status="failed", reason="before a task")
    record(spec(seed=0, phase="search", score_on="validation"), rows(), split_hash="cc", value=0.6)
    record(spec(seed=0, phase="table", score_on="validation", also_on="test"), rows(), split_hash="dd")
    found = {row.pop("split_hash"): row for row in times_scored(results).to_pylist()}
    assert found == {
        "dd": {"stream": "split", "dataset": "digits", "seeds": ["0"], "scored": 1, "methods": 1},
        "aa": {"stream": "split", "dataset": "digits", "seeds": ["10"], "scored": 3, "methods": 3},
        "bb": {"stream": "split", "dataset": "digits", "seeds": ["11"], "scored": 2, "methods": 2},
    }
    assert "Scores on test data in this folder: 6, over 3 splits, at most 3 on each." in comparison(results).notes


def test_a_split_that_several_seeds_share_is_one(results: ResultsFolder, record: Callable[..., Any]) -> None:
    for seed in (10, 11):
        record(spec(seed=seed), rows(), split_hash="aa")
    assert times_scored(results)["seeds"].to_pylist() in ([["10", "11"]], [["11", "10"]])
    assert "Scores on test data in this folder: 2, over one split." in comparison(results).notes


def test_rows_without_a_fingerprint_are_told_apart_by_stream_and_seed(
    results: ResultsFolder, record: Callable[..., Any]
) -> None:
    for seed in (10, 11):
        for alias in ("ewc", "si"):
            record(spec(alias, seed=seed), rows(), split_hash=None)
    found = times_scored(results)
    assert found["scored"].to_pylist() == [2, 2]
    assert found["split_hash"].to_pylist() == [None, None]
