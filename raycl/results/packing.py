"""A sweep's data set in two files, small enough to mail or to keep beside the sweep file that it answers."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raycl.errors import StoreError
from raycl.results.comparison import owners_of
from raycl.results.packed import CELLS_FILE, SWEEP, TRIALS_FILE
from raycl.results.reading import (
    Folder,
    opened,
    read_cells,
    read_inside,
    read_measures,
    read_online,
    read_tested,
    read_trials,
)

TESTED_FILE = "tested.parquet"
MORE = {
    "inside.parquet": read_inside,
    "online.parquet": read_online,
    "measures.parquet": read_measures,
    TESTED_FILE: read_tested,
}
"""Written where the trials hold any."""


def pack(folder: Folder, target: Path) -> tuple[int, int]:
    """Write ``trials.parquet`` and ``cells.parquet``, sorted by trial, with the sweep in their metadata.

    What was measured inside tasks, further numbers of each, and a table's matrices on test data, if there are any, are
    written beside them.

    Both are what :func:`read_trials` and :func:`read_cells` give; pandas, DuckDB and notebooks read them alone. The
    column ``entries`` of the trials names every method that asks for one, as ``alias`` is only that which ran it first.

    Args:
        target: a folder, made where it does not exist; files of these names in it are replaced.

    Returns:
        The number of trials and of cells.

    Raises:
        TornFile: a part of the results is damaged or missing.
        StoreError: the target is no folder, or cannot be written.
    """
    results = opened(folder)
    trials, cells, owners = read_trials(results), read_cells(results), owners_of(results)
    asking = [owners.get(name, ()) for name in trials["trial"].to_pylist()]
    trials = trials.append_column("entries", pa.array(asking, pa.list_(pa.string())))
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{target}: must be a folder to write into ({error.strerror}); name another") from error
    told = json.loads(results.sweep_json)
    told |= {"file": Path(told.get("file", "")).name}  # where it lay concerns one machine alone
    more = {name: read(results) for name, read in MORE.items()}
    tables = {TRIALS_FILE: trials, CELLS_FILE: cells, **{name: table for name, table in more.items() if len(table)}}
    for name, table in tables.items():
        _write(table.replace_schema_metadata({SWEEP: json.dumps(told).encode()}), target / name)
    return trials.num_rows, cells.num_rows


def _write(table: pa.Table, path: Path) -> None:
    try:
        with path.open("wb") as file:  # opened here, as pyarrow takes names that are text only
            pq.write_table(table, file, compression="zstd", compression_level=19)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error}); name another folder") from error
