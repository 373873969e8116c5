"""The comparison table: what a sweep found, in the terminal, as text, as Arrow and as pandas."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from raycl.catalog import catalog
from raycl.errors import SpecError
from raycl.matrix import AccuracyMatrix
from raycl.results.comparison import COMPARED, REFERRED, Line, Spread, compared, lines
from raycl.results.pooled import POOLED, with_pooled
from raycl.results.reading import Folder, matrices, opened
from raycl.results.store import ResultsFolder
from raycl.spec.sweep import SweepSpec

HEADINGS = {
    "average_accuracy": "average\naccuracy %",
    "forgetting": "forgetting %",
    "learning_accuracy": "learning\naccuracy %",
    "backward_transfer": "backward\ntransfer %",
    "intransigence": "intransi-\ngence %",
    "pooled_accuracy": "pooled\naccuracy %",
    "pooled_average_incremental_accuracy": "pooled avg.\nincremental %",
}
WIDE = 110
"""From this terminal width on, backward transfer and parameters are shown too."""
WIDEST_MATRIX = 12
"""Matrices of more tasks do not fit a terminal."""
WIDEST = 128
"""From this width on, also intransigence, where there is a reference, and the pooled average incremental accuracy,
where tasks differ in size."""
SPARED = ("seconds", "memory", "learning_accuracy", "forgetting")
"""Columns that a terminal too narrow for all of them goes without, the first one first: no figure is cut short."""


@dataclass(frozen=True)
class Comparison:
    """One line per method and variant; prints as a table.

    Attributes:
        begun: trials that have begun and not ended.
        refused: why the sweep is not continued, of a folder whose sweep file this raycl refuses.
    """

    sweep: str
    lines: Sequence[Line]
    begun: int = 0
    refused: str = ""

    @property
    def complete(self) -> bool:
        """Whether nothing that the sweep asks for is left to run, whatever came of it."""
        return all(line.complete for line in self.lines)

    @property
    def failed(self) -> list[str]:
        """Methods that have ended without their result, or with a part of it, and why."""
        return [f"{line.key}: {line.failure}" for line in self.lines if line.failure]

    @property
    def notes(self) -> list[str]:
        """What the figures do not say by themselves."""
        notes = ["Mean ± standard deviation (n - 1) over n final seeds, scored on test data."]
        if any(line.scored_on == "validation" for line in self.lines):
            notes.append(
                "v: no final trial has finished; the winner, or the best point so far, on validation data, over n "
                "search seeds."
            )
        if any(POOLED[0] in line.metrics for line in self.lines):
            notes.append("Tasks differ in size: average accuracy weighs every task alike, pooled accuracy every image.")
        notes += dict.fromkeys(remark for line in self.lines for remark in line.remarks)
        references = {line.variant: line.reference for line in self.lines if line.reference}
        for variant, alias in references.items():
            told = f" of {variant}" if variant else ""
            notes.append(f"Intransigence{told}: against the diagonal of {alias}, cumulative training of the same seed.")
        if any(line.upper_bound for line in self.lines):
            notes.append("†: upper bound, trains on the data of earlier or later tasks as well.")
        notes += [f"{line.key}: n/a, {line.barred}" for line in self.lines if line.barred]
        notes += [note for line in self.lines for note in _failures(line)]
        machines = {machine for line in self.lines for machine in line.machines}
        if len(machines) > 1:
            told = "; ".join(f"{cpu}, {threads} threads, torch {torch}" for cpu, threads, torch in _sorted(machines))
            notes.append(f"‡: mixed machines, so equal trials may differ in their last bits ({told}).")
        if not self.complete:
            begun = f"; trials begun and not ended: {self.begun}" if self.begun else ""
            waiting = ", ".join(_waiting(line) for line in self.lines if not line.complete)
            refused = self.refused and f"This raycl refuses its sweep file: {self.refused}"
            notes.append(f"Incomplete: {waiting}{begun}. {refused or '`raycl resume` continues.'}")
        if self.failed:
            notes.append("`raycl show --failures` shows where; `raycl resume --retry-failed` runs failed trials again.")
        return notes

    def to_arrow(self) -> pa.Table:
        """One row per line; undefined figures are null, accuracies in [0, 1]."""
        return pa.Table.from_pylist([_record(line) for line in self.lines], schema=_SCHEMA)

    def to_pandas(self) -> Any:
        """:meth:`to_arrow` as a pandas data frame."""
        return self.to_arrow().to_pandas()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        for spared in range(len(SPARED) + 1):
            table = self._table(width, frozenset(SPARED[:spared]))
            if Measurement.get(console, options.update(max_width=10 * WIDEST), table).maximum <= width:
                break
        yield table
        for note in self.notes:
            yield Text(note, style="dim")

    def _repr_html_(self) -> str:
        """The table as a notebook shows it."""
        console = Console(file=io.StringIO(), record=True, width=WIDEST, force_jupyter=False)
        console.print(self)
        return console.export_html(inline_styles=True, code_format="<pre style='line-height:1.2'>{code}</pre>")

    def __str__(self) -> str:
        """The table as plain text."""
        text = io.StringIO()
        Console(file=text, width=WIDEST, color_system=None, legacy_windows=False, force_jupyter=False).print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())

    def _table(self, width: int, spared: frozenset[str]) -> Table:
        wide = width >= WIDE
        table = Table(
            title=self.sweep,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1) if wide else (0, 1, 0, 0),  # a terminal of 80 columns holds the narrow table
        )
        variants = any(line.variant for line in self.lines)
        if variants:
            table.add_column("variant", no_wrap=True)
        table.add_column("strategy", no_wrap=True)
        shown = [name for name in COMPARED if (wide or name != "backward_transfer") and name not in spared]
        further = [POOLED[0], *((POOLED[1], REFERRED) if width >= WIDEST else ())]
        shown[1:1] = [name for name in further[:2] if any(name in line.metrics for line in self.lines)]
        shown += [name for name in further[2:] if any(name in line.metrics for line in self.lines)]
        for name in shown:
            table.add_column(HEADINGS[name], justify="right", no_wrap=True)
        costs = [name for name in ("seconds", "memory", *(["parameters"] if wide else [])) if name not in spared]
        for heading in (*costs, "n"):
            table.add_column(heading, justify="right", no_wrap=True)
        best = _best_keys(self.lines)
        mixed = len({machine for line in self.lines for machine in line.machines}) > 1
        before = self.lines[0].variant if self.lines else ""
        for line in self.lines:
            if line.variant != before:
                table.add_section()
            names = [Text(line.variant if line.variant != before or line is self.lines[0] else "")] if variants else []
            before = line.variant
            failed = bool(line.failure) and not line.trials
            style = "dim" if line.barred else "red" if failed else "bold" if line.key in best else ""
            figures = ["failed" if failed and name == shown[0] else _percent(line, name) for name in shown]
            cost = [_COSTS[name](line) for name in costs]
            table.add_row(*names, _name(line, mixed), *figures, *cost, _seeds(line), style=style)
        return table


def comparison(folder: Folder) -> Comparison:
    """The comparison of a results folder, of a running sweep too: what is there, and what is missing.

    Raises:
        StoreError: there is no results folder, or a part of it is damaged.
    """
    results = opened(folder)
    found, begun = compared(results)
    comparison = Comparison(results.name, tuple(with_pooled(line, results) for line in found), begun)
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


def human_bytes(count: float) -> str:
    """``"1.8 MB"``; decimal units, as disks and papers count."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _name(line: Line, mixed: bool) -> str:
    marks = ("†" if line.upper_bound else "") + ("‡" if mixed and line.machines else "")
    return f"{line.alias}{' ' + marks if marks else ''}{' (v)' if line.scored_on == 'validation' else ''}"


def _percent(line: Line, name: str) -> str:
    if line.barred:
        return "n/a"
    spread = line.metrics.get(name)
    if spread is None:
        return "-"
    if math.isnan(spread.std):
        return f"{100 * spread.mean:.2f} ±    -"
    return f"{100 * spread.mean:.2f} ± {100 * spread.std:4.2f}"


def _seconds(line: Line) -> str:
    return "" if line.seconds is None else f"{line.seconds.mean:.{1 if line.seconds.mean < 100 else 0}f}"


def _memory(line: Line) -> str:
    return "" if line.memory is None else human_bytes(line.memory.mean)


def _count(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.mean:,.0f}"


_COSTS: Mapping[str, Callable[[Line], str]] = {
    "seconds": _seconds,
    "memory": _memory,
    "parameters": lambda line: _count(line.parameters),
}


def _seeds(line: Line) -> str:
    if line.barred:
        return ""
    if line.planned is None:
        return str(len(line.trials))
    done = len(line.trials) if line.scored_on == "test" else 0
    return str(done) if done == line.planned else f"{done} of {line.planned}"


def _waiting(line: Line) -> str:
    return f"{line.key} {_seeds(line)}" if line.planned else line.key


def _failures(line: Line) -> list[str]:
    """What failed of a method, in every phase, and where the first traceback of each lies."""
    told = list(line.told)
    if line.failure and line.failure not in told:  # it says more: that nothing is left to choose from
        told = [line.failure, *(text for text in told if text not in line.failure)]
    files = [failure.traceback for failure in line.failed if failure.traceback]
    return [f"{line.key}: {text}" for text in told] + ([f"  traceback: {files[0]}"] if told and files else [])


def _best_keys(found: Sequence[Line]) -> set[str]:
    """The best method of each variant that is no upper bound; lines are sorted."""
    best: dict[str, str] = {}
    for line in found:
        if line.scored_on == "test" and not line.upper_bound:
            best.setdefault(line.variant, line.key)
    return set(best.values())


def _sorted(machines: set[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(machines, key=str)


_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("variant", "alias", "strategy", "scored_on")),
        *(pa.field(name, pa.int32()) for name in ("seeds", "planned", "failed")),
        pa.field("upper_bound", pa.bool_()),
        *(
            pa.field(f"{name}_{part}", pa.float64())
            for name in (*COMPARED, *POOLED, REFERRED)
            for part in ("mean", "std")
        ),
        pa.field("reference", pa.string()),
        *(pa.field(name, pa.float64()) for name in ("seconds", "memory_bytes", "parameters")),
        *(pa.field(name, pa.string()) for name in ("barred", "failure")),
    ]
)


def _record(line: Line) -> dict[str, Any]:
    figures: dict[str, float] = {}
    for name, spread in line.metrics.items():
        figures |= {f"{name}_mean": spread.mean} | ({} if math.isnan(spread.std) else {f"{name}_std": spread.std})
    means = {"seconds": line.seconds, "memory_bytes": line.memory, "parameters": line.parameters}
    return {
        **{name: getattr(line, name) for name in ("variant", "alias", "strategy", "scored_on", "planned")},
        "seeds": len(line.trials),
        "failed": len(line.failed),
        "upper_bound": line.upper_bound,
        "barred": line.barred,
        "reference": line.reference,
        "failure": line.failure or None,
        **figures,
        **{name: spread.mean for name, spread in means.items() if spread is not None},
    }


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
