"""A results folder read back: its data set as Arrow tables, and the accuracy matrices."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from raycl.matrix import AccuracyMatrix
from raycl.results import schema
from raycl.results.choices import CHOICES
from raycl.results.collected import parts_of, unified
from raycl.results.files import Files
from raycl.results.packed import Pack, is_pack
from raycl.results.seed_columns import with_seeds
from raycl.results.store import ResultsFolder

Folder: TypeAlias = str | Path | ResultsFolder


def opened(folder: Folder) -> ResultsFolder:
    """The folder as an object, whichever way it is named; what ``raycl pack`` has written of one will do.

    Raises:
        StoreError: there is neither.
    """
    if isinstance(folder, ResultsFolder):
        return folder
    files = Files.at(folder)
    return Pack(files) if is_pack(files) else ResultsFolder.open(folder)


def read_trials(folder: Folder) -> pa.Table:
    """One row per trial that has ended, in the order of their hashes, with every hyperparameter as a column ``hp.*``.

    Raises:
        TornFile: a part is damaged or missing; ``raycl resume`` repairs it.
    """
    tables = _ended(opened(folder), "trials").values()
    return with_seeds(unified([schema.TRIALS.empty_table(), *tables]))  # the first has the columns that came later


def read_cells(folder: Folder) -> pa.Table:
    """The matrices of all trials that have ended: trial, train_task (-1: before training), eval_task, correct, total.

    Raises:
        TornFile: a part is damaged or missing; ``raycl resume`` repairs it.
    """
    return _joined(opened(folder), "cells", schema.CELLS)


def read_inside(folder: Folder) -> pa.Table:
    """Accuracies while tasks were learned, of all trials that measured them: trial, train_task, update (within it),
    eval_task, correct, total.

    Raises:
        TornFile: a part is damaged; ``raycl resume`` repairs it.
    """
    return _joined(opened(folder), "inside", schema.INSIDE)


def read_online(folder: Folder) -> pa.Table:
    """Examples that were predicted before they were learned: trial, train_task, correct, total.

    Raises:
        TornFile: a part is damaged; ``raycl resume`` repairs it.
    """
    return _joined(opened(folder), "online", schema.ONLINE_ROWS)


def read_measures(folder: Folder) -> pa.Table:
    """Numbers of each task beside its accuracies, as a method tells them, or ``evaluation.diagnostics``: trial,
    train_task, name, value.

    Raises:
        TornFile: a part is damaged; ``raycl resume`` repairs it.
    """
    return _joined(opened(folder), "measures", schema.MEASURE_ROWS)


def read_choices(folder: Folder) -> pa.Table:
    """What trials that choose as they go have tried, a row for each training of a task: trial, train_task, training,
    stage, candidate, values, judged, kept, failure.

    Raises:
        TornFile: a part is damaged; ``raycl resume`` repairs it.
    """
    return _joined(opened(folder), "choices", CHOICES)


def read_tested(folder: Folder) -> pa.Table:
    """The matrices on test data of trials of a table, whose :func:`read_cells` are of validation data.

    Raises:
        TornFile: a part is damaged; ``raycl resume`` repairs it.
    """
    return _joined(opened(folder), "tested", schema.CELLS)


def matrices(folder: Folder) -> dict[str, AccuracyMatrix]:
    """The accuracy matrix of every trial that has ended with a row, by the trial's hash."""
    results = opened(folder)
    sizes = {row["trial"]: row["num_tasks"] for row in read_trials(results).select(["trial", "num_tasks"]).to_pylist()}
    tables = parts_of(results.files, "cells", list(sizes))
    return {trial: matrix_of(cells, sizes[trial]) for trial, cells in tables.items() if sizes[trial] and cells.num_rows}


def stored_matrix(results: ResultsFolder, trial: str) -> AccuracyMatrix:
    """The accuracy matrix of one trial that has finished.

    Raises:
        TornFile: its part is damaged or missing; ``raycl resume`` repairs it.
    """
    cells = parts_of(results.files, "cells", [trial])[trial]
    return matrix_of(cells, int(cells["eval_task"].to_numpy().max(initial=-1)) + 1)


def stored_sizes(results: ResultsFolder, trial: str) -> np.ndarray:
    """Examples of each task in a trial that has finished, ``[num_tasks]``; 0 where no row has measured it.

    Raises:
        TornFile: its part is damaged or missing; ``raycl resume`` repairs it.
    """
    cells = parts_of(results.files, "cells", [trial])[trial]
    evaluated, learned = cells["eval_task"].to_numpy(), cells["train_task"].to_numpy()
    sizes = np.zeros(int(evaluated.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(sizes, evaluated[learned >= 0], cells["total"].to_numpy()[learned >= 0])
    return sizes


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


def _ended(results: ResultsFolder, kind: str) -> dict[str, pa.Table]:
    """The rows of all trials that have ended, by hash; other parts belong to a trial that is just ending."""
    return parts_of(results.files, kind, results.ended())


def _joined(results: ResultsFolder, kind: str, form: pa.Schema) -> pa.Table:
    tables = _ended(results, kind)
    return pa.concat_tables(tables.values()) if tables else form.empty_table()
