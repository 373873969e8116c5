"""The data set of a sweep that has finished: one file for each kind of table, in place of the parts of its trials.

``data/trials/all.parquet`` has one union of columns, and one type for each of them, over all methods; so has every
other kind. What reads a folder of Parquet files (pandas, pyarrow, DuckDB, Polars) takes its columns from one file,
which then is the only one.

A part counts for more than the file. A trial that ends again, or for the first time, leaves its parts beside it, until
the sweep has finished once more. A trial whose part among ``trials`` is there has parts of its own, else its rows are
in the files: they are written before parts go, and the part among ``trials`` goes first. So each row is read once at
any moment, wherever the driver dies.
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
from raycl.results.trial_store import part_name

ALL = "all"
"""Takes the place of a trial's name in that of a part."""
OF_EVERY_TRIAL = ("cells", "trials")
"""Kinds of which every trial that has ended has a part."""
AT_ONCE = 16
"""Trials whose rows are held, and lie side by side in a file, so that those of a few can be read alone."""
COLLECTED = "raycl.collected"
"""Of the notes in the file of the trials: the digests of verdicts, and sizes of the other files."""
_PART = re.compile(r"([0-9a-f]{16})\.parquet")
_FORMS = {
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
    path, form = part_name(kind, ALL), _FORMS[kind]
    if not files.exists(path):
        return {}
    found = by_trial(schema.from_parquet(files.opened(path), files.name(path), form, trials))
    if kind == "cells" and len(found) < len(trials):
        found |= {name: form.empty_table() for name in trials if name in _notes(files)["verdicts"].keys() - found}
    return found


def held(files: Files, sizes: Mapping[str, int]) -> Mapping[str, str]:
    """Trials whose rows are in the files, with the digests of the verdicts that they were written for.

    No trial, where one of the files is damaged.

    Args:
        sizes: lists the folder ``data``.
    """
    try:
        notes = _notes(files)
    except TornFile:
        return {}
    whole = all(sizes.get(name.removeprefix("data/")) == size for name, size in notes["sizes"].items())
    verdicts: Mapping[str, str] = notes["verdicts"] if whole else {}
    return verdicts


def _notes(files: Files) -> Mapping[str, Any]:
    """What the file of the trials tells of all files: ``verdicts``, trial -> digest, and ``sizes``, file -> bytes.

    Raises:
        TornFile: it is damaged.
    """
    path = part_name("trials", ALL)
    if not files.exists(path):
        return {"verdicts": {}, "sizes": {}}
    told: Mapping[str, Any] = json.loads(schema.notes_of(files.opened(path), files.name(path)).get(COLLECTED, "null"))
    if told is None:
        raise TornFile(f"{files.name(path)}: not a file of raycl's; delete it and run `raycl resume` on the folder")
    return told


def collect(files: Files, ended: Sequence[str]) -> None:
    """Put the parts of a sweep together. For the driver that holds the lease, once nothing is left to run.

    Args:
        ended: names of all trials that have a verdict.

    Raises:
        TornFile: a part is damaged or missing.
    """
    sizes = files.sizes("data")
    parts = [name for name in sizes if _PART.fullmatch(name.rpartition("/")[2])]
    if parts or held(files, sizes).keys() != set(ended):
        _write(files, ended)
    for name in sorted(parts, key=lambda name: not name.startswith("trials/")):
        files.delete(f"data/{name}")


def _write(files: Files, ended: Sequence[str]) -> None:
    """Write every kind anew; that of the trials last, with what tells whether the others are whole."""
    sizes = {}
    for kind, form in _FORMS.items():
        if form is None:
            continue
        data = schema.in_groups(_in_turn(files, kind, ended), form)
        if data is None and kind not in OF_EVERY_TRIAL:
            files.delete(part_name(kind, ALL))
            continue
        written = data or schema.to_parquet(form.empty_table())
        files.write(part_name(kind, ALL), written)
        sizes[part_name(kind, ALL)] = len(written)
    with ThreadPoolExecutor(8) as pool:  # on object stores the time is all latency
        verdicts = list(pool.map(lambda name: digest(files.read(f"trials/{name}/verdict.json") or b""), ended))
    notes = json.dumps({"verdicts": dict(zip(ended, verdicts, strict=True)), "sizes": sizes}, sort_keys=True)
    table = unified([schema.TRIALS.empty_table(), *parts_of(files, "trials", ended).values()])
    files.write(part_name("trials", ALL), schema.to_parquet(table, notes={COLLECTED: notes}))


def _in_turn(files: Files, kind: str, ended: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of a few trials at a time."""
    for first in range(0, len(ended), AT_ONCE):
        tables = parts_of(files, kind, ended[first : first + AT_ONCE])
        if tables:
            yield pa.concat_tables(tables.values())


def unified(tables: Sequence[pa.Table]) -> pa.Table:
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


def _own(files: Files) -> set[str]:
    """Trials that have parts of their own."""
    return {found[1] for found in map(_PART.fullmatch, files.children("data/trials")) if found}


def _parts(files: Files, kind: str, trials: Sequence[str]) -> dict[str, pa.Table]:
    """Those of a kind that are there."""

    def read(trial: str) -> pa.Table | None:
        name = part_name(kind, trial)
        data = files.read(name)
        return None if data is None else schema.from_parquet(data, files.name(name), _FORMS[kind])

    with ThreadPoolExecutor(8) as pool:  # on object stores the time is all latency
        return {name: table for name, table in zip(trials, pool.map(read, trials), strict=True) if table is not None}


def by_trial(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each trial, which lie side by side."""
    names = table["trial"].dictionary_encode().unify_dictionaries().combine_chunks()
    codes = names.indices.to_numpy()
    borders = [*np.flatnonzero(np.diff(codes, prepend=-1)).tolist(), len(codes)]
    return {names.dictionary[codes[start]].as_py(): table[start:end] for start, end in pairwise(borders)}
