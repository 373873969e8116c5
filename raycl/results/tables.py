"""The comparison table: what a sweep found, in the terminal, as text, as Arrow and as pandas."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from raycl.catalog import catalog
from raycl.errors import SpecError, UnknownName, nearest
from raycl.matrix import AccuracyMatrix
from raycl.results import notes, scored
from raycl.results.baseline import Baseline, baselines
from raycl.results.comparison import Line, compared, lines
from raycl.results.html import WIDEST, as_html
from raycl.results.layout import TableColumn, columns, name_headings, spared_in_order
from raycl.results.pareto import pareto_rows
from raycl.results.pooled import with_pooled
from raycl.results.questions import Question
from raycl.results.reading import Folder, matrices, opened
from raycl.results.records import record, records_of
from raycl.results.scored import SPLITS
from raycl.results.store import ResultsFolder
from raycl.spec.sweep import SweepSpec

WIDEST_MATRIX = 12
"""Matrices of more tasks do not fit a terminal."""


@dataclass(frozen=True)
class Comparison:
    """One line per method and variant; prints as a table.

    Attributes:
        begun: trials that have begun and not ended.
        refused: why the sweep is not continued, of a folder whose sweep file this raycl refuses.
        named: the baseline that the sweep file names; None: the best method on validation data.
        splits: how often test data were scored, of schema :data:`raycl.results.scored.SPLITS`.
        question: what was asked of all methods; of several folders with different ones, nothing.
        metrics: of the trials that were scored, whatever the table shows.
        differ: in what the folders of a table of several ask otherwise.
        chosen: keys of the lines that are shown, in order; None: all. Others still count as comparisons.
        points: whether winners stand in the table: None where there is room, and else below it.
    """

    sweep: str
    lines: Sequence[Line]
    begun: int = 0
    refused: str = ""
    named: str | None = None
    splits: pa.Table = field(default_factory=SPLITS.empty_table)
    question: Question = field(default_factory=dict)
    metrics: Sequence[str] = ()
    differ: tuple[str, ...] = ()
    chosen: tuple[str, ...] | None = None
    points: bool | None = None

    @cached_property
    def baselines(self) -> Mapping[str, Baseline]:
        """What the methods of each variant are compared with, and what came of it."""
        return baselines(self.lines, self.named)

    @cached_property
    def shown(self) -> Sequence[Line]:
        """The lines that are shown, in order."""
        known = {line.key: line for line in self.lines}
        return self.lines if self.chosen is None else [known[key] for key in self.chosen]

    def against(self, baseline: str | None) -> Comparison:
        """The same with another baseline; None: with the one that it has.

        Raises:
            UnknownName: it is no method of the sweep.
        """
        known = dict.fromkeys(name for line in self.lines for name in (line.alias, line.name))
        if baseline is not None and baseline not in known:
            told = f"{nearest(baseline, known)} (known: {', '.join(known)})"
            raise UnknownName(f"a baseline must be a method of the sweep (got {baseline!r}){told}")
        return self if baseline is None else replace(self, named=baseline)

    @property
    def complete(self) -> bool:
        """Whether nothing that the sweep asks for is left to run, whatever came of it."""
        return all(line.complete for line in self.lines)

    @property
    def failed(self) -> list[str]:
        """Methods that have ended without their result, or with a part of it, and why."""
        return [f"{line.key}: {line.failure}" for line in self.shown if line.failure]

    @property
    def notes(self) -> list[str]:
        """What the figures do not say by themselves."""
        folders = len({line.place for line in self.lines})
        told = notes.figures(self.shown) + notes.apart(self.differ)
        told += notes.support(self.lines, self.baselines, self.named)
        told += notes.tradeoffs(self.shown) + notes.searches(self.shown)
        told += dict.fromkeys(remark for line in self.shown for remark in line.remarks)
        told += scored.told(self.splits, folders)
        told += notes.references(self.shown) + notes.failures(self.shown) + notes.machines(self.shown)
        told += notes.incomplete(self.shown, self.begun, self.refused)
        if self.failed:
            told.append("`raycl show --failures` shows where; `raycl resume --retry-failed` runs failed trials again.")
        return told

    def to_arrow(self) -> pa.Table:
        """One row per line; undefined figures are null, accuracies in [0, 1]."""
        rows = [record(line, self.baselines.get(line.family)) for line in self.shown]
        rows = [{"sweep": line.place or self.sweep, **row} for line, row in zip(self.shown, rows, strict=True)]
        return pa.Table.from_pylist(rows, schema=records_of(self.shown))

    def pareto(self) -> pa.Table:
        """A row per point of the Pareto sets of searches with several objectives; searched values have columns."""
        return pa.Table.from_pylist(pareto_rows({line.key: line.pareto for line in self.shown}))

    def to_pandas(self) -> Any:
        """:meth:`to_arrow` as a pandas data frame."""
        return self.to_arrow().to_pandas()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        every = columns(self.shown, self.baselines, self.points)
        spared = spared_in_order(self.shown, self.points)
        for count in range(len(spared) + 1):
            shown = [column for column in every if column.name not in spared[:count]]
            table = self._table(shown)
            if Measurement.get(console, options.update(max_width=10 * WIDEST), table).maximum <= width:
                break
        else:
            table = self._table(shown, folded=True)
        yield table
        has_winners = self.points is False or any(column.name == "winner" for column in shown)
        for note in (*(() if has_winners else notes.winners(self.shown)), *self.notes):
            yield Text(note, style="dim")

    def _repr_html_(self) -> str:
        """The table as a notebook shows it."""
        return as_html(self)

    def __str__(self) -> str:
        """The table as plain text."""
        text = io.StringIO()
        Console(file=text, width=WIDEST, color_system=None, legacy_windows=False, force_jupyter=False).print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())

    def _table(self, shown: Sequence[TableColumn], folded: bool = False) -> Table:
        """The table with some columns.

        Args:
            folded: names take several lines, where there is no room for them beside the figures.
        """
        table = Table(
            title=self.sweep,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        names = self.names
        for column in names:
            table.add_column(column.heading, no_wrap=not folded, overflow="fold")
        for column in shown:
            table.add_column(column.heading, justify="right" if column.figures else "left", no_wrap=True)
        before: tuple[str, ...] = ()
        for line in self.shown:
            group = (line.family, line.place)
            if group[:1] != before[:1]:
                table.add_section()
            said = () if group != before else ("sweep", "variant")
            before = group
            cells = [column.cell(line) for column in shown]
            failed = bool(line.failure) and not line.trials
            if failed:
                cells[0] = "failed"
            row = (*("" if column.name in said else column.cell(line) for column in names), *cells)
            table.add_row(*map(escape, row), style=self._style(line, failed))
        return table

    def _style(self, line: Line, failed: bool) -> str:
        return "dim" if line.barred else "red" if failed else "bold" if self.supported(line) else ""

    @property
    def names(self) -> list[TableColumn]:
        """The columns that say whose line it is."""
        cells = {"sweep": lambda line: line.place, "variant": lambda line: line.variant, "strategy": self.named_as}
        return [TableColumn(name, name, cells[name], figures=False) for name in name_headings(self.shown)]

    def named_as(self, line: Line) -> str:
        """The name of a line's method with its marks."""
        beside = (one for one in self.lines if one.family == line.family)
        mixed = len({machine for one in beside for machine in one.machines}) > 1
        marks = ("†" if line.upper_bound else "") + ("‡" if mixed and line.machines else "")
        return f"{line.alias}{' ' + marks if marks else ''}{' (v)' if line.scored_on == 'validation' else ''}"

    def supported(self, line: Line) -> bool:
        """Whether a line is its family's baseline, or not told apart from it."""
        baseline = self.baselines.get(line.family)
        return baseline is not None and line.key in baseline.group


def comparison(folder: Folder, baseline: str | None = None, metric: str = "average_accuracy") -> Comparison:
    """The comparison of a results folder, of a running sweep too: what is there, and what is missing.

    Args:
        baseline: the method that others are compared with; default: what the sweep file says.
        metric: what they are compared by, as the trials table names it.

    Raises:
        StoreError: there is no results folder, or a part of it is damaged.
        UnknownName: the baseline is no method of the sweep.
    """
    results = opened(folder)
    found = compared(results, metric)
    pooled = tuple(with_pooled(line, results) for line in found.lines)
    comparison = Comparison(
        results.name,
        pooled,
        found.begun,
        named=found.baseline,
        splits=scored.splits_of(found.trials.values()),
        question=found.question,
        metrics=found.metrics,
    ).against(baseline)
    return comparison if comparison.complete else replace(comparison, refused=_refusal(results))


def _refusal(results: ResultsFolder) -> str:
    """The first problem for which this raycl refuses the sweep file of a folder; empty where there is none."""
    stored = json.loads(results.sweep_json)
    if "text" not in stored:
        return ""
    try:
        SweepSpec.parse(stored["text"], catalog(), stored["file"])
    except SpecError as error:
        return str(error.problems[0])
    return ""


def compared_matrices(folder: Folder) -> dict[str, list[AccuracyMatrix]]:
    """The matrices behind each line of :func:`comparison`, one per seed, by the line's key and in its order."""
    results = opened(folder)
    known = matrices(results)
    found = {line.key: [known[trial] for trial in line.trials if trial in known] for line in lines(results)}
    return {key: values for key, values in found.items() if values}


def matrix_table(matrix: AccuracyMatrix) -> Table | Text:
    """Accuracies in per cent; rows: after which task, columns: measured on which. The metrics where it is too large."""
    if matrix.num_tasks > WIDEST_MATRIX:
        defined = {name: value for name, value in matrix.metrics().items() if not math.isnan(value)}
        return Text(", ".join(f"{name.replace('_', ' ')} {100 * value:.2f} %" for name, value in defined.items()))
    table = Table(title="accuracy % after each task, on each task", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("after", justify="right")
    for task in range(matrix.num_tasks):
        table.add_column(str(task + 1), justify="right")
    for name, row in (("-", matrix.untrained), *((str(i + 1), row) for i, row in enumerate(matrix.accuracy))):
        table.add_row(name, *("" if math.isnan(value) else f"{100 * value:.1f}" for value in row))
    return table
