"""A table of everything read back, from its results folder or its pack: for each method its points, and what each of
them has come to with each seed, on validation and on test data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raycl.catalog import catalog
from raycl.errors import StoreError
from raycl.matrix import AccuracyMatrix
from raycl.results.collected import by_trial
from raycl.results.comparison import owners_of
from raycl.results.packed import CELLS_FILE, SWEEP, TRIALS_FILE
from raycl.results.packing import TESTED_FILE
from raycl.results.reading import Folder, matrix_of, opened, read_cells, read_tested, read_trials
from raycl.results.schema import CELLS
from raycl.results.seed_columns import seeds_in
from raycl.spec.distribution import Conditional
from raycl.spec.entry import Entry
from raycl.spec.points import Point, place_of
from raycl.spec.space import Choice
from raycl.spec.sweep import SweepSpec


@dataclass(frozen=True)
class Measured:
    """One trial of a table.

    Attributes:
        tasks_done: tasks that it has learned; all of them unless it failed.
        reason: why it failed; empty where it did not.
    """

    tasks_done: int
    reason: str
    validation: AccuracyMatrix
    test: AccuracyMatrix

    def curve(self, metric: str) -> dict[int, float]:
        """Task -> a search metric on validation data after it; tasks after which it is not defined are absent."""
        return {task: value for task, value in enumerate(self.validation.curve(metric)) if not math.isnan(value)}


@dataclass(frozen=True)
class Landscape:
    """One method of a table.

    Attributes:
        points: in the order of their places in the unit cube, whatever the order in which they were drawn.
        measured: place among the points, label of the seeds -> the trial; points over a limit, which were not run, and
            trials that have not ended are absent.
        num_tasks: of the stream.
    """

    entry: Entry
    points: tuple[Point, ...]
    measured: Mapping[tuple[int, str], Measured]
    num_tasks: int
    _index: Mapping[str, int] = field(repr=False)
    _places: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, entry: Entry, trials: Sequence[tuple[Point, str, Measured]], num_tasks: int) -> Landscape:
        """Of an entry's trials: point, label of the seeds, and what was measured."""
        distinct = {_name(entry, point): point for point, _, _ in trials}
        points = sorted(distinct.values(), key=lambda point: (place_of(entry.space, point), _name(entry, point)))
        index = {_name(entry, point): place for place, point in enumerate(points)}
        measured = {(index[_name(entry, point)], label): found for point, label, found in trials}
        places = np.array([cls._place(entry, point) for point in points]).reshape(len(points), len(entry.space))
        return cls(entry, tuple(points), measured, num_tasks, index, places)

    @staticmethod
    def _place(entry: Entry, point: Mapping[str, Any]) -> list[float]:
        """Coordinates of a point; of a choice that does not act one that no value has."""
        shares = zip(entry.space.items(), place_of(entry.space, point), strict=True)
        return [-1.0 if path not in point and _is_choice(found) else share for (path, found), share in shares]

    def index(self, point: Mapping[str, Any]) -> int:
        """The place of a point of the table among its points."""
        return self._index[_name(self.entry, point)]

    def nearest(self, point: Mapping[str, Any], used: Sequence[Mapping[str, Any]]) -> int:
        """The point that lies nearest among those that are not used; of equally near ones the first.

        Distance is Euclidean in the unit cube, in which a range is as long as any other, by shares of its draws; two
        values of a choice are equal, or as far apart as the ends of a range.
        """
        away = self._places - np.array(self._place(self.entry, point)).reshape(1, -1)
        choice = np.array([_is_choice(found) for found in self.entry.space.values()], dtype=bool)
        squares = np.where(choice[None, :], away != 0, away**2).sum(axis=1)
        squares[[self.index(own) for own in used]] = np.inf
        return int(np.argmin(squares))

    def tested(self, index: int, seeds: Sequence[str], metric: str) -> float | None:
        """A metric on test data after the last task, the mean over seeds; None unless a point has it on all of them."""
        found = [self.measured.get((index, label)) for label in seeds]
        values = [one.test.curve(metric)[-1] for one in found if one is not None and not one.reason]
        return float(np.mean(values)) if len(values) == len(seeds) and not np.isnan(values).any() else None


@dataclass(frozen=True)
class Landscapes:
    """A whole table.

    Attributes:
        sweep: its file.
        methods: by the key of the entry, in file order; those that cannot run are left out.
    """

    sweep: SweepSpec
    methods: Mapping[str, Landscape]

    @property
    def seeds(self) -> tuple[str, ...]:
        """Labels of the seeds of every point, in order."""
        assert self.sweep.table is not None
        return tuple(run.label for run in self.sweep.table.runs)


def read_table(place: Folder) -> Landscapes:
    """A table of everything.

    Args:
        place: a results folder, or the folder that ``raycl pack`` wrote of one.

    Raises:
        StoreError: there is neither, or the sweep is no table.
    """
    packed = isinstance(place, (str, Path)) and (Path(place) / TRIALS_FILE).exists()
    told, trials, cells, tested = _packed(Path(str(place))) if packed else _stored(place)
    sweep = SweepSpec.loads(told, catalog())
    if sweep.table is None:
        raise StoreError(
            f"{sweep.name}: is no table, so that nothing was measured at points that no search has chosen; give the "
            "results of a sweep file with table: {points: 64}"
        )
    matrices, tests = by_trial(cells), by_trial(tested)
    rows = [row for row in trials.to_pylist() if row["phase"] == "table"]
    entries = [entry for entry in sweep.entries if not entry.barred]
    return Landscapes(sweep, {entry.key: _landscape(entry, rows, matrices, tests) for entry in entries})


def _landscape(
    entry: Entry, rows: Sequence[Mapping[str, Any]], cells: Mapping[str, pa.Table], tested: Mapping[str, pa.Table]
) -> Landscape:
    own = [row for row in rows if entry.key in row["entries"]]
    tasks = max((row["num_tasks"] or 0 for row in own), default=0)

    def measured(row: Mapping[str, Any]) -> Measured:
        reason = "" if row["status"] == "finished" else row["reason"] or row["status"]
        found = (each.get(row["trial"], CELLS.empty_table()) for each in (cells, tested))
        return Measured(row["tasks_done"], reason, *(matrix_of(each, tasks) for each in found))

    trials = [(json.loads(row["spec"])["point"], seeds_in(row).label, measured(row)) for row in own]
    return Landscape.of(entry, trials, tasks)


def _packed(folder: Path) -> tuple[str, pa.Table, pa.Table, pa.Table]:
    """The sweep, trials, matrices on validation data and on test data of a pack."""
    trials, cells = (pq.read_table(folder / name) for name in (TRIALS_FILE, CELLS_FILE))
    tested = pq.read_table(folder / TESTED_FILE) if (folder / TESTED_FILE).exists() else cells.slice(0, 0)
    return (trials.schema.metadata or {}).get(SWEEP, b"{}").decode(), trials, cells, tested


def _stored(place: Folder) -> tuple[str, pa.Table, pa.Table, pa.Table]:
    """The same of a results folder."""
    results = opened(place)
    trials, owners = read_trials(results), owners_of(results)
    asking = [owners.get(name, ()) for name in trials["trial"].to_pylist()]
    trials = trials.append_column("entries", pa.array(asking, pa.list_(pa.string())))
    return results.sweep_json, trials, read_cells(results), read_tested(results)


def _is_choice(found: object) -> bool:
    return isinstance(found.inner if isinstance(found, Conditional) else found, Choice)


def _name(entry: Entry, point: Mapping[str, Any]) -> str:
    return json.dumps([point.get(path) for path in entry.space])
