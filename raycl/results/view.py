"""The results of a sweep, as a notebook reads them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycl.catalog import catalog
from raycl.matrix import AccuracyMatrix
from raycl.results.decisions import read_winner
from raycl.results.reading import (
    matrices,
    read_cells,
    read_choices,
    read_inside,
    read_measures,
    read_online,
    read_tested,
    read_trials,
)
from raycl.results.store import ResultsFolder
from raycl.results.tables import Comparison, comparison
from raycl.spec.sweep import SweepSpec


class Results:
    """What a sweep has left in its folder, read when it is asked for, and once.

    Args:
        folder: a path, or a URI that pyarrow's file systems take.

    Raises:
        StoreError: there is no results folder.

    Example:
        >>> results = Results(folder)
        >>> [line.key for line in results.table.lines]
        ['replay', 'naive']
        >>> results.trials.num_rows
        4
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = ResultsFolder.open(folder)

    @property
    def uri(self) -> str:
        """Where the results lie."""
        return self._folder.uri

    @cached_property
    def sweep(self) -> SweepSpec:
        """The sweep, as its folder keeps it."""
        return SweepSpec.loads(self._folder.sweep_json, catalog())

    @cached_property
    def table(self) -> Comparison:
        """The comparison: prints as a table in a terminal, and shows as one in a notebook."""
        return comparison(self._folder)

    @cached_property
    def trials(self) -> pa.Table:
        """A row per trial that has ended, with its metrics, costs and every hyperparameter as a column ``hp.*``."""
        return read_trials(self._folder)

    @cached_property
    def cells(self) -> pa.Table:
        """The matrices of all trials in long form: trial, train_task, eval_task, correct, total."""
        return read_cells(self._folder)

    @cached_property
    def inside(self) -> pa.Table:
        """Accuracies while tasks were learned (``evaluation.inside``), in long form: trial, train_task, update within
        it, eval_task, correct, total."""
        return read_inside(self._folder)

    @cached_property
    def online(self) -> pa.Table:
        """Examples that were predicted before they were learned (``evaluation.online``): trial, train_task, correct,
        total."""
        return read_online(self._folder)

    @cached_property
    def measures(self) -> pa.Table:
        """Numbers of each task beside its accuracies, of a method's own or ``evaluation.diagnostics``, in long form:
        trial, train_task, name, value."""
        return read_measures(self._folder)

    @cached_property
    def tested(self) -> pa.Table:
        """The matrices on test data of the trials of a ``table``, whose :attr:`cells` are of validation data."""
        return read_tested(self._folder)

    @cached_property
    def choices(self) -> pa.Table:
        """What trials that choose as they go have tried (``search.protocol``), in long form: trial, train_task,
        training, stage, candidate, values, judged, kept, failure."""
        return read_choices(self._folder)

    @cached_property
    def matrices(self) -> Mapping[str, AccuracyMatrix]:
        """The accuracy matrix of every trial, by the trial's hash."""
        return matrices(self._folder)

    @cached_property
    def winners(self) -> Mapping[str, Mapping[str, Any]]:
        """What was chosen for each searched method, by its key: its point, its value, and what chose it."""
        entries = [entry for entry in self.sweep.entries if self.sweep.runs(entry).search]
        found = {entry.key: read_winner(self._folder.read_json, self.sweep, entry) for entry in entries}
        return {key: winner for key, winner in found.items() if winner is not None}

    def __repr__(self) -> str:
        return f"Results({self.uri!r}): sweep {self._folder.name!r}, {len(self._folder.ended())} trials"

    def _repr_html_(self) -> str:
        return self.table._repr_html_()
