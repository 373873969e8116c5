"""A results folder read back: its data set as Arrow tables, and the accuracy matrices."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from raycl.errors import TornFile
from raycl.matrix import AccuracyMatrix
from raycl.results import schema
from raycl.results.store import ResultsFolder
from raycl.results.trial_store import part_name

Folder: TypeAlias = str | Path | ResultsFolder


def opened(folder: Folder) -> ResultsFolder:
    """The folder as an object, whichever way it is named."""
    return folder if isinstance(folder, ResultsFolder) else ResultsFolder.open(folder)


def read_trials(folder: Folder) -> pa.Table:
    """One row per trial that has ended, in the order of their hashes, with every hyperparameter as a column ``hp.*``.

    Raises:
        TornFile: a part is damaged or missing; ``raycl resume`` repairs it.
    """
    tables = _parts(opened(folder), "trials", None)
    return _unified([schema.TRIALS.empty_table(), *tables])  # the first has the columns that came later


def read_cells(folder: Folder) -> pa.Table:
    """The matrices of all trials that have ended: trial, train_task (-1: before training), eval_task, correct, total.

    Raises:
        TornFile: a part is damaged or missing; ``raycl resume`` repairs it.
    """
    tables = _parts(opened(folder), "cells", schema.CELLS)
    return pa.concat_tables(tables) if tables else schema.CELLS.empty_table()


def read_inside(folder: Folder) -> pa.Table:
    """Accuracies while tasks were learned, of all trials that measured them: trial, train_task, update (within it),
    eval_task, correct, total.

    Raises:
        TornFile: a part is damaged; ``raycl resume`` repairs it.
    """
    return _some(opened(folder), "inside", schema.INSIDE)


def read_online(folder: Folder) -> pa.Table:
    """Examples that were predicted before they were learned: trial, train_task, correct, total.

    Raises:
        TornFile: a part is damaged; ``raycl resume`` repairs it.
    """
    return _some(opened(folder), "online", schema.ONLINE_ROWS)


def read_measures(folder: Folder) -> pa.Table:
    """Numbers of each task beside its accuracies, as a method tells them, or ``evaluation.diagnostics``: trial,
    train_task, name, value.

    Raises:
        TornFile: a part is damaged; ``raycl resume`` repairs it.
    """
    return _some(opened(folder), "measures", schema.MEASURE_ROWS)


def _some(results: ResultsFolder, kind: str, form: pa.Schema) -> pa.Table:
    """The parts of a kind that not every trial has."""
    there = results.files.existing([part_name(kind, trial) for trial in results.ended()])
    tables = _read(results, there, form)
    return pa.concat_tables(tables) if tables else form.empty_table()


def matrices(folder: Folder) -> dict[str, AccuracyMatrix]:
    """The accuracy matrix of every trial that has ended with a row, by the trial's hash."""
    results = opened(folder)
    trials = read_trials(results).select(["trial", "num_tasks"]).to_pylist()
    tables = _parts(results, "cells", schema.CELLS)
    return {
        row["trial"]: matrix_of(cells, row["num_tasks"])
        for row, cells in zip(trials, tables, strict=True)
        if row["num_tasks"] and cells.num_rows
    }


def stored_matrix(results: ResultsFolder, trial: str) -> AccuracyMatrix:
    """The accuracy matrix of one trial that has finished.

    Raises:
        TornFile: its part is damaged or missing; ``raycl resume`` repairs it.
    """
    cells = _part(results, part_name("cells", trial), schema.CELLS)
    return matrix_of(cells, int(cells["eval_task"].to_numpy().max(initial=-1)) + 1)


def matrix_of(cells: pa.Table, num_tasks: int) -> AccuracyMatrix:
    """The matrix of one trial from its cells."""
    correct, total = (np.zeros((num_tasks + 1, num_tasks), dtype=np.int64) for _ in range(2))
    place = cells["train_task"].to_numpy() + 1, cells["eval_task"].to_numpy()
    correct[place], total[place] = cells["correct"].to_numpy(), cells["total"].to_numpy()
    return AccuracyMatrix.from_counts(correct, total)


def unfinished(folder: Folder) -> list[str]:
    """Hashes of the trials that have begun and not ended."""
    results = opened(folder)
    return sorted(set(results.trial_hashes()) - set(results.ended()))


def _parts(results: ResultsFolder, kind: str, form: pa.Schema | None) -> list[pa.Table]:
    """The parts of all trials that have ended, by hash; others belong to a trial that is just ending."""
    return _read(results, [part_name(kind, trial) for trial in results.ended()], form)


def _read(results: ResultsFolder, names: Sequence[str], form: pa.Schema | None) -> list[pa.Table]:
    with ThreadPoolExecutor(8) as pool:  # on object stores the time is all latency
        return list(pool.map(lambda name: _part(results, name, form), names))


def _part(results: ResultsFolder, name: str, form: pa.Schema | None) -> pa.Table:
    data = results.files.read(name)
    if data is None:
        raise TornFile(f"{results.files.name(name)}: missing; `raycl resume` on the results folder writes it again")
    return schema.from_parquet(data, results.files.name(name), form)


def _unified(tables: Sequence[pa.Table]) -> pa.Table:
    """One table: whole numbers and floats become floats, other mixtures text, absent columns null."""
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        kinds: dict[str, set[pa.DataType]] = {}
        for field in (field for table in tables for field in table.schema):
            kinds.setdefault(field.name, set()).add(field.type)
        mixed = {name for name, types in kinds.items() if len(types) > 1 and not types <= {pa.int64(), pa.float64()}}
        return pa.concat_tables([_as_text(table, mixed) for table in tables], promote_options="permissive")


def _as_text(table: pa.Table, names: set[str]) -> pa.Table:
    for name in names & set(table.column_names):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, table[name].cast(pa.string()))
    return table
