"""The results of sweeps, as a notebook reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycl.catalog import catalog
from raycl.errors import StoreError
from raycl.matrix import AccuracyMatrix
from raycl.results.collected import unified
from raycl.results.comparison import standings_of
from raycl.results.decisions import read_winner
from raycl.results.packed import Pack
from raycl.results.points_tried import points_tried
from raycl.results.reading import (
    Folder,
    matrices,
    opened,
    read_cells,
    read_choices,
    read_inside,
    read_measures,
    read_online,
    read_tested,
    read_trials,
)
from raycl.results.several import joined
from raycl.results.standing import Standing
from raycl.results.store import ResultsFolder
from raycl.results.tables import Comparison, comparison
from raycl.spec.distribution import Distribution
from raycl.spec.entry import entry_key
from raycl.spec.sweep import SweepSpec


class Results:
    """What sweeps have left in their folders, read when it is asked for, and once.

    Args:
        folders: paths, or URIs that pyarrow's file systems take, of results folders or of what ``raycl pack`` has
            written of them. Of several, methods are called by their sweep too: ``quickstart/replay``.

    Raises:
        StoreError: there is no results folder, or none is named.

    Example:
        >>> results = Results(folder)
        >>> [line.key for line in results.table.lines]
        ['replay', 'naive']
        >>> results.trials.num_rows
        4
    """

    def __init__(self, *folders: Folder) -> None:
        if not folders:
            raise StoreError("results are those of a folder at least (got none); give the path of one")
        found = [opened(folder) for folder in folders]
        names = [one.name for one in found]
        alike = {name for name in names if names.count(name) > 1}
        labels = [f"{one.name}:{number}" if one.name in alike else one.name for number, one in enumerate(found, 1)]
        self._sweeps = [_Sweep(one, label if len(found) > 1 else "") for one, label in zip(found, labels, strict=True)]

    @property
    def folders(self) -> Sequence[ResultsFolder]:
        """The folders themselves."""
        return [one.folder for one in self._sweeps]

    @property
    def uri(self) -> str:
        """Where the results lie; of several folders one after another."""
        return ", ".join(one.folder.uri for one in self._sweeps)

    @property
    def sweeps(self) -> Sequence[SweepSpec]:
        """The sweeps, as their folders keep them."""
        return [one.sweep for one in self._sweeps]

    @property
    def sweep(self) -> SweepSpec:
        """The sweep of the one folder.

        Raises:
            StoreError: there are several.
        """
        if len(self._sweeps) > 1:
            raise StoreError(f"these are the results of {len(self._sweeps)} sweeps; read sweeps, or give one folder")
        return self._sweeps[0].sweep

    @cached_property
    def table(self) -> Comparison:
        """The comparison: prints as a table in a terminal, and shows as one in a notebook. Of several sweeps the lines
        stand one below another, and each is compared within its own."""
        return joined({one.label: one.table for one in self._sweeps}) if len(self._sweeps) > 1 else self.tables[0]

    @property
    def tables(self) -> Sequence[Comparison]:
        """The comparison of each sweep by itself."""
        return [one.table for one in self._sweeps]

    @cached_property
    def trials(self) -> pa.Table:
        """A row per trial that has ended, with its metrics, costs and every hyperparameter as a column ``hp.*``; of
        several folders each trial once, with the columns of all."""
        return self._joined(read_trials)

    @cached_property
    def cells(self) -> pa.Table:
        """The matrices of all trials in long form: trial, train_task, eval_task, correct, total."""
        return self._joined(read_cells)

    @cached_property
    def inside(self) -> pa.Table:
        """Accuracies while tasks were learned (``evaluation.inside``), in long form: trial, train_task, update within
        it, eval_task, correct, total."""
        return self._joined(read_inside)

    @cached_property
    def online(self) -> pa.Table:
        """Examples that were predicted before they were learned (``evaluation.online``): trial, train_task, correct,
        total."""
        return self._joined(read_online)

    @cached_property
    def measures(self) -> pa.Table:
        """Numbers of each task beside its accuracies, of a method's own or ``evaluation.diagnostics``, in long form:
        trial, train_task, name, value."""
        return self._joined(read_measures)

    @cached_property
    def tested(self) -> pa.Table:
        """The matrices on test data of the trials of a ``table``, whose :attr:`cells` are of validation data."""
        return self._joined(read_tested)

    @cached_property
    def choices(self) -> pa.Table:
        """What trials that choose as they go have tried (``search.protocol``), in long form: trial, train_task,
        training, stage, candidate, values, judged, kept, failure."""
        return self._joined(read_choices)

    @cached_property
    def matrices(self) -> Mapping[str, AccuracyMatrix]:
        """The accuracy matrix of every trial, by the trial's hash."""
        return {name: matrix for one in self._sweeps for name, matrix in one.matrices.items()}

    @cached_property
    def methods(self) -> Mapping[str, Sequence[str]]:
        """The trials behind each line of :attr:`table`, one per seed, by the line's key and in its order."""
        return {line.key: line.trials for line in self.table.lines if line.trials}

    @cached_property
    def compared(self) -> Mapping[str, Sequence[AccuracyMatrix]]:
        """The matrices behind each line of :attr:`table`, as :attr:`methods` has their trials."""
        found = {key: [self.matrices[t] for t in own if t in self.matrices] for key, own in self.methods.items()}
        return {key: own for key, own in found.items() if own}

    @cached_property
    def winners(self) -> Mapping[str, Mapping[str, Any]]:
        """What was chosen for each searched method, by its key: its point, its value, and what chose it."""
        return {key: winner for one in self._sweeps for key, winner in one.winners.items()}

    @cached_property
    def searches(self) -> Mapping[str, pa.Table]:
        """The points that were tried for each searched method, by its key: a row for each distinct one, with
        ``suggestion``, ``status``, ``value``, ``reason``, and a column for each searched value."""
        return {key: points for one in self._sweeps for key, points in one.searches.items()}

    @cached_property
    def spaces(self) -> Mapping[str, Mapping[str, Distribution]]:
        """What the values of each of :attr:`searches` were drawn from."""
        return {key: space for one in self._sweeps for key, space in one.spaces.items()}

    def _joined(self, read: Callable[[Folder], pa.Table]) -> pa.Table:
        """A table of all folders, without the rows of trials that an earlier folder has."""
        seen: set[str] = set()
        tables = []
        for one in self._sweeps:
            own = read(one.folder)
            tables.append(own.filter(pc.invert(pc.is_in(own["trial"], pa.array(sorted(seen), pa.string())))))
            seen |= set(own["trial"].unique().to_pylist())
        return unified(tables)

    def __repr__(self) -> str:
        told = "; ".join(f"sweep {one.folder.name!r}, {len(one.folder.ended())} trials" for one in self._sweeps)
        return f"Results({self.uri!r}): {told}"

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


class _Sweep:
    """One folder.

    Args:
        label: stands before the keys of its methods; empty where it is the only one.
    """

    def __init__(self, folder: ResultsFolder, label: str) -> None:
        self.folder = folder
        self.label = label

    def key(self, key: str) -> str:
        return entry_key(self.label, key)

    @cached_property
    def sweep(self) -> SweepSpec:
        return SweepSpec.loads(self.folder.sweep_json, catalog())

    @cached_property
    def table(self) -> Comparison:
        return comparison(self.folder)

    @cached_property
    def matrices(self) -> Mapping[str, AccuracyMatrix]:
        return matrices(self.folder)

    @cached_property
    def standings(self) -> Sequence[Standing]:
        return standings_of(self.sweep, self.folder)

    @cached_property
    def winners(self) -> Mapping[str, Mapping[str, Any]]:
        entries = [entry for entry in self.sweep.entries if self.sweep.runs(entry).search]
        if isinstance(self.folder, Pack):  # which keeps no decisions
            told = {one.entry.key: one.winner for one in self.standings}
            found = {entry.key: told.get(entry.key) for entry in entries}
        else:
            found = {entry.key: read_winner(self.folder.read_json, self.sweep, entry) for entry in entries}
        return {self.key(key): winner for key, winner in found.items() if winner is not None}

    @cached_property
    def searches(self) -> Mapping[str, pa.Table]:
        return {self.key(one.entry.key): points_tried(one) for one in self.standings if one.suggested}

    @property
    def spaces(self) -> Mapping[str, Mapping[str, Distribution]]:
        return {self.key(one.entry.key): one.entry.space for one in self.standings if one.suggested}
