"""What is read back of a folder: each ended trial once, whole, in one order, with its types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from results.made_results import PROVENANCE, row, rows, spec

from raycl.errors import StoreError, TornFile
from raycl.matrix import Verdict
from raycl.results import collected, schema
from raycl.results.reading import matrices, matrix_of, opened, read_cells, read_trials, unfinished
from raycl.results.store import ResultsFolder

Record = Callable[..., Any]


def test_a_folder_is_opened_whichever_way_it_is_named(results: ResultsFolder, tmp_path: Path) -> None:
    assert opened(results) is results
    for name in (Path(results.uri), results.uri, f"file://{results.uri}"):
        assert opened(name).sweep_hash == "abc"
    with pytest.raises(StoreError, match=r"sweep\.json is missing"):
        opened(tmp_path / "nothing")


def test_an_empty_folder_has_tables_with_their_columns_and_no_rows(results: ResultsFolder) -> None:
    assert read_trials(results).schema.names == schema.TRIALS.names
    assert read_cells(results).schema.equals(schema.CELLS)
    assert read_trials(results).num_rows == read_cells(results).num_rows == 0
    assert matrices(results) == {}


def test_trials_are_in_the_order_of_their_hashes_and_open_ones_are_left_out(
    results: ResultsFolder, record: Record
) -> None:
    ended = [record(spec(seed=seed), rows(seed)).hash for seed in (3, 1, 2)]
    store = results.trial(spec(seed=9))
    store.write_task(store.begin(), 0, rows()[:2], {})
    assert read_trials(results)["trial"].to_pylist() == sorted(ended)
    assert set(read_cells(results)["trial"].to_pylist()) == set(ended)
    assert unfinished(results) == [spec(seed=9).hash]
    store.finish(Verdict("failed", "boom", None, 0), PROVENANCE)
    assert read_trials(results).num_rows == 4
    assert unfinished(results) == []


def test_a_trial_that_is_opened_again_is_left_out_until_it_ends(results: ResultsFolder, record: Record) -> None:
    store = results.trial(record(spec(), rows()))
    store.reopen()
    assert read_trials(results).num_rows == read_cells(results).num_rows == 0
    assert unfinished(results) == [spec().hash]


def test_the_matrix_is_that_of_the_rows(results: ResultsFolder, record: Record) -> None:
    record(spec(), rows())
    record(spec("joint"), [row(2, [90, 80, float("nan")])])
    record(spec("gem"), [], status="failed")
    found = matrices(results)
    assert found.keys() == {spec().hash, spec("joint").hash}, "what left no row has no matrix"
    np.testing.assert_allclose(found[spec().hash].untrained, [0.1, 0.1, 0.1])
    np.testing.assert_allclose(found[spec().hash].accuracy, [[0.9, 0.1, 0.2], [0.7, 0.8, 0.3], [0.6, 0.5, 0.7]])
    assert np.isnan(found[spec("joint").hash].accuracy[:2]).all()
    np.testing.assert_allclose(found[spec("joint").hash].accuracy[2], [0.9, 0.8, np.nan])


def cells_of(table: list[tuple[int, int, int, int]]) -> pa.Table:
    """(train_task, eval_task, correct, total) -> cells."""
    columns = [list(column) for column in zip(*table, strict=True)]
    return pa.table([["t"] * len(table), *columns], schema=schema.CELLS)


def check_placing(read: Callable[[pa.Table, int], Any]) -> None:
    """Cells stand where they say, in whatever order they come; the row before training stands apart."""
    matrix = read(cells_of([(1, 0, 3, 4), (-1, 1, 1, 10), (0, 1, 5, 8)]), 2)
    np.testing.assert_array_equal(matrix.accuracy, [[np.nan, 0.625], [0.75, np.nan]])
    np.testing.assert_array_equal(matrix.untrained, [np.nan, 0.1])


def test_cells_stand_where_they_say() -> None:
    check_placing(matrix_of)


@pytest.mark.parametrize("column", [("eval_task", "train_task"), ("train_task", "eval_task")])
def test_cells_in_other_places_are_noticed(column: tuple[str, str]) -> None:
    """The wrong variants: the matrix transposed, and the untrained row taken for the last one."""

    def transposed(cells: pa.Table, num_tasks: int) -> Any:
        names = ["trial", "eval_task", "train_task", "correct", "total"]
        turned = cells.filter(pa.compute.greater_equal(cells["train_task"], 0)).rename_columns(names)
        return matrix_of(turned.select(schema.CELLS.names), num_tasks)

    def shifted(cells: pa.Table, num_tasks: int) -> Any:
        moved = pa.array([task % num_tasks for task in cells["train_task"].to_pylist()], pa.int32())
        return matrix_of(cells.set_column(1, schema.CELLS.field("train_task"), moved), num_tasks)

    with pytest.raises(AssertionError):
        check_placing(transposed if column[0] == "eval_task" else shifted)


@pytest.mark.parametrize("kind", ["trials", "cells"])
def test_a_part_that_is_missing_or_torn_is_named_with_the_remedy(
    results: ResultsFolder, record: Record, kind: str
) -> None:
    record(spec(), rows())
    part = Path(results.uri, f"parts/{kind}/{spec().hash}.parquet")
    read = {"trials": read_trials, "cells": read_cells}[kind]
    whole = part.read_bytes()
    part.write_bytes(whole[:-20])
    with pytest.raises(TornFile, match=r"not a complete Parquet result .*raycl resume"):
        read(results)
    part.unlink()
    with pytest.raises(TornFile, match=f"{part}: missing; `raycl resume`"):
        read(results)
    part.write_bytes(whole)
    assert read(results).num_rows > 0


# -- hyperparameters of methods that differ --------------------------------------------------------------------


def options(results: ResultsFolder, record: Record, *values: dict[str, Any]) -> pa.Table:
    for seed, option in enumerate(values):
        record(spec(seed=seed, options=option), rows())
    table = read_trials(results)
    return table.take(pa.compute.sort_indices(table["seed"]))


def test_a_column_that_a_method_lacks_is_null(results: ResultsFolder, record: Record) -> None:
    table = options(results, record, {"penalty": 2.5}, {"other": "x"})
    assert table["hp.penalty"].to_pylist() == [2.5, None]
    assert table["hp.other"].to_pylist() == [None, "x"]


def test_whole_numbers_and_floats_become_floats(results: ResultsFolder, record: Record) -> None:
    table = options(results, record, {"penalty": 2}, {"penalty": 0.5})
    assert table["hp.penalty"].type == pa.float64()
    assert table["hp.penalty"].to_pylist() == [2.0, 0.5]


def test_other_mixtures_become_text_and_the_rest_keeps_its_type(results: ResultsFolder, record: Record) -> None:
    table = options(results, record, {"mode": 2, "penalty": 1.5}, {"mode": "online", "penalty": 2})
    assert table["hp.mode"].to_pylist() == ["2", "online"]
    assert table["hp.penalty"].type == pa.float64()
    assert table["hp.model.hidden"].to_pylist() == ["[20, 20]"] * 2


def test_mixtures_without_text_would_not_be_read_at_all(
    results: ResultsFolder, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrong variant: columns of two kinds are joined as they are."""
    monkeypatch.setattr(collected, "_as_text", lambda table, names: table)
    with pytest.raises(pa.ArrowException):
        options(results, record, {"mode": 2}, {"mode": "online"})


# -- what is not ours ------------------------------------------------------------------------------------------


def test_strangers_in_a_results_folder_are_left_alone(results: ResultsFolder, record: Record) -> None:
    trial = record(spec(), rows())
    root = Path(results.uri)
    (root / "trials" / "Thumbs.db").write_bytes(b"x")
    copy = root / "trials" / f"{trial.hash} - Copy"
    copy.mkdir()
    for name in ("spec.json", "verdict.json"):
        (copy / name).write_bytes((root / "trials" / trial.hash / name).read_bytes())
    (root / "parts" / "trials" / "desktop.ini").write_bytes(b"x")
    assert results.trial_hashes() == results.ended() == [trial.hash]
    assert read_trials(results).num_rows == 1
    assert list(matrices(results)) == [trial.hash]
    assert unfinished(results) == []
    assert list(results.repair()) == []
    assert (copy / "spec.json").exists()
