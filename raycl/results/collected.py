"""The data set of a sweep: one file for each kind of table, and what trials have left since it was last written.

``data/trials/all.parquet`` has one union of columns, and one type for each of them, over all methods; so has every
other kind. What reads a folder of Parquet files (pandas, pyarrow, DuckDB, Polars) takes its columns from one file,
which is the only one there is. The driver replaces it whole every now and then, and once the sweep has finished.

A trial that ends, again or for the first time, leaves parts below ``parts``, where no other program looks, until they
are taken in; earlier versions of raycl left them beside the files. A part counts for more than the file: a trial whose
part among ``trials`` is there has parts of its own, else its rows are in the files. These are written before parts go,
and the part among ``trials`` goes first. So each row is read once at any moment, wherever the driver dies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from raycl.errors import TornFile
from raycl.results import schema
from raycl.results.choices import CHOICES
from raycl.results.files import Files, digest
from raycl.results.hyperparameters import HP, settled
from raycl.results.trial_store import DATA_FOLDER, PARTS_FOLDER, part_name, part_names

README_FILE = f"{DATA_FOLDER}/README.md"
OF_EVERY_TRIAL = ("cells", "trials")
"""Kinds of which every trial that has ended has a part."""
AT_ONCE = 16
"""Trials whose rows are held, and lie side by side in a file, so that those of a few can be read alone."""
COLLECTED = "raycl.collected"
"""Of the notes in the file of the trials: the digests of verdicts, and sizes of the other files."""
_NAMES = ("strategy", f"{HP}model.name", f"{HP}stream.name")
"""Columns that say whose options the others may be: of methods, models and streams."""
_PART = re.compile(r"([0-9a-f]{16})\.parquet")
_FORMS: dict[str, pa.Schema | None] = {
    "cells": schema.CELLS,
    "inside": schema.INSIDE,
    "online": schema.ONLINE_ROWS,
    "measures": schema.MEASURE_ROWS,
    "choices": CHOICES,
    "tested": schema.CELLS,
    "trials": None,
}
"""In the order in which they are written; None: the union of what the trials have."""


def parts_of(files: Files, kind: str, trials: Sequence[str]) -> dict[str, pa.Table]:
    """The rows of each of some trials that have ended, in the given order; those without a part are left out.

    Raises:
        TornFile: a part is damaged or missing; ``raycl resume`` repairs it.
    """
    own = _own(files)
    found = _parts(files, kind, [name for name in trials if name in own])
    left = [name for name in trials if name not in found]
    if own.intersection(left):  # they have none of this kind, unless they have been collected meanwhile
        own = _own(files)
        left = [name for name in left if name not in own]
    if left:
        found |= _collected(files, kind, left)
    if kind in OF_EVERY_TRIAL:
        for name in (name for name in trials if name not in found):
            path = files.name(part_name(kind, name))
            raise TornFile(f"{path}: missing; `raycl resume` on the results folder writes it again")
    return {name: found[name] for name in trials if name in found}


def _collected(files: Files, kind: str, trials: Sequence[str]) -> dict[str, pa.Table]:
    """The rows of some trials in the file of a kind; of cells a trial may have none."""
    path = file_name(kind)
    if not files.exists(path):
        return {}
    table = schema.from_parquet(files.opened(path), files.name(path), _FORMS[kind], trials)
    found = by_trial(table)
    if kind == "cells" and len(found) < len(trials):
        found |= {name: table[:0] for name in trials if name in _notes(files)["verdicts"].keys() - found}
    return found


def held(files: Files, sizes: Mapping[str, int]) -> Mapping[str, str]:
    """Trials whose rows are in the files, with the digests of the verdicts that they were written for.

    No trial, where one of the files is damaged.

    Args:
        sizes: of the files of the data set, by name.
    """
    try:
        notes = _notes(files)
    except TornFile:
        return {}
    whole = all(sizes.get(name) == size for name, size in notes["sizes"].items())
    verdicts: Mapping[str, str] = notes["verdicts"] if whole else {}
    return verdicts


def sizes_of(files: Files) -> dict[str, int]:
    """Every file of the data set and every part, with its size."""
    return {
        f"{below}/{name}": size for below in (DATA_FOLDER, PARTS_FOLDER) for name, size in files.sizes(below).items()
    }


def file_name(kind: str) -> str:
    """Where the file of a kind lies."""
    return f"{DATA_FOLDER}/{kind}/all.parquet"


def _notes(files: Files) -> Mapping[str, Any]:
    """What the file of the trials tells of all files: ``verdicts``, trial -> digest, and ``sizes``, file -> bytes.

    Raises:
        TornFile: it is damaged.
    """
    path = file_name("trials")
    if not files.exists(path):
        return {"verdicts": {}, "sizes": {}}
    told: Mapping[str, Any] = json.loads(schema.notes_of(files.opened(path), files.name(path)).get(COLLECTED, "null"))
    if told is None:
        raise TornFile(f"{files.name(path)}: not a file of raycl's; delete it and run `raycl resume` on the folder")
    return told


def collect(files: Files, ended: Sequence[str]) -> None:
    """Take in what trials have left. For the driver that holds the lease, also while trials run.

    Args:
        ended: names of all trials that have a verdict.

    Raises:
        TornFile: a part is damaged or missing, or its trial goes on just now.
    """
    sizes, known = sizes_of(files), set(ended)
    parts: dict[str, list[str]] = {}
    for name in sorted(sizes, key=lambda name: "/trials/" not in name):
        found = _PART.fullmatch(name.rpartition("/")[2])
        if found and found[1] in known:
            parts.setdefault(found[1], []).append(name)
    if not parts and held(files, sizes).keys() == known:
        return
    verdicts = _verdicts(files, ended)  # first: a trial that ends anew from now on keeps the parts that it then leaves
    for name, data in _written(files, verdicts).items():
        files.delete(name) if data is None else files.write(name, data)
    now = _verdicts(files, list(parts))
    for name in (name for trial, names in parts.items() if now[trial] == verdicts[trial] for name in names):
        files.delete(name)


def _verdicts(files: Files, trials: Sequence[str]) -> dict[str, str]:
    """The digest of each trial's verdict."""
    with ThreadPoolExecutor(8) as pool:  # on object stores the time is all latency
        found = pool.map(lambda name: digest(files.read(f"trials/{name}/verdict.json") or b""), trials)
        return dict(zip(trials, found, strict=True))


def _written(files: Files, verdicts: Mapping[str, str]) -> dict[str, bytes | None]:
    """Every file anew, with its bytes; that of the trials last, with what tells whether the others are whole.

    None for a file without rows, which goes: trials of which it had some have parts.

    All of it is made before any is written, so that the files disagree for as short a time as may be.
    """
    from raycl.results.described import (
        HOW_TO_READ,  # late: it imports the methods, which no reader needs
        described,
    )

    ended, written = list(verdicts), dict[str, bytes | None]()
    for kind, form in _FORMS.items():
        if form is not None:
            data = schema.in_groups(_in_turn(files, kind, ended), described(form))
            if data is None and kind in OF_EVERY_TRIAL:
                data = schema.to_parquet(form.empty_table())
            written[file_name(kind)] = data
    sizes = {name: len(data) for name, data in written.items() if data is not None}
    notes = json.dumps({"verdicts": dict(verdicts), "sizes": sizes}, sort_keys=True)
    table = unified([schema.TRIALS.empty_table(), *parts_of(files, "trials", ended).values()])
    named = (sorted({*table[name].to_pylist()} - {None}) for name in _NAMES if name in table.column_names)
    table = table.cast(described(table.schema, *named))
    if files.read(README_FILE) != HOW_TO_READ.encode():
        written[README_FILE] = HOW_TO_READ.encode()
    return {**written, file_name("trials"): schema.to_parquet(table, notes={COLLECTED: notes})}


def _in_turn(files: Files, kind: str, ended: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of a few trials at a time."""
    for first in range(0, len(ended), AT_ONCE):
        tables = parts_of(files, kind, ended[first : first + AT_ONCE])
        if tables:
            yield pa.concat_tables(tables.values())


def unified(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of trials: absent columns are null, and options have the types of :func:`settled`.

    Of what a package brings along, whole numbers and floats become floats, other mixtures text.
    """
    tables = [settled(table) for table in tables]
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


def _own(files: Files) -> set[str]:
    """Trials that have parts of their own."""
    names = [name for below in (DATA_FOLDER, PARTS_FOLDER) for name in files.children(f"{below}/trials")]
    return {found[1] for found in map(_PART.fullmatch, names) if found}


def _parts(files: Files, kind: str, trials: Sequence[str]) -> dict[str, pa.Table]:
    """Those of a kind that are there."""

    def read(trial: str) -> pa.Table | None:
        for name in part_names(kind, trial):
            data = files.read(name)
            if data is not None:
                return schema.from_parquet(data, files.name(name), _FORMS[kind])
        return None

    with ThreadPoolExecutor(8) as pool:  # on object stores the time is all latency
        return {name: table for name, table in zip(trials, pool.map(read, trials), strict=True) if table is not None}


def by_trial(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each trial, which lie side by side."""
    names = table["trial"].dictionary_encode().unify_dictionaries().combine_chunks()
    codes = names.indices.to_numpy()
    borders = [*np.flatnonzero(np.diff(codes, prepend=-1)).tolist(), len(codes)]
    return {names.dictionary[codes[start]].as_py(): table[start:end] for start, end in pairwise(borders)}
