"""A comparison as text for other programs: raw as CSV and JSON, and ready to print as Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raycl.results import notes
from raycl.results.comparison import Line
from raycl.results.layout import SPARED, TableColumn, columns
from raycl.results.pareto import pareto_rows
from raycl.results.tables import Comparison

UNPRINTED = SPARED[: SPARED.index("seconds") + 1]
"""Columns that a page does without: the first ones that a terminal does."""


def as_csv(table: Comparison) -> str:
    """A row for each line, with full names in the first; numbers as they are, accuracies in [0, 1], undefined ones
    empty. Each searched value of the winners has a column ``winner.PATH``, unless ``points`` is false."""
    rows = [_flat(row) for row in records(table)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(table: Comparison) -> str:
    """A list with an object for each line; numbers as in :func:`as_csv`, undefined ones null. ``winner`` is an object,
    and ``pareto`` a list of the points of a search by several objectives."""
    rows = records(table)
    for row, line in zip(rows, table.shown, strict=True):
        if line.pareto:
            row["pareto"] = [{k: v for k, v in own.items() if k != "method"} for own in pareto_rows({"": line.pareto})]
    return json.dumps(rows, indent=1, allow_nan=False) + "\n"


def records(table: Comparison) -> list[dict[str, Any]]:
    """The rows of :meth:`Comparison.to_arrow`, with the winners as objects, or without them."""
    rows: list[dict[str, Any]] = table.to_arrow().to_pylist()
    for row in rows:
        winner = row.pop("winner")
        if table.points is not False:
            row["winner"] = None if winner is None else json.loads(winner)
    return rows


def as_markdown(table: Comparison) -> str:
    """A table of Markdown, and what its figures and its bold lines mean."""
    headings, rows = _cells(table, points=table.points is not False)
    marks = ["---:" if column.figures else "---" for column in headings]
    lines = [[column.title for column in headings], marks]
    for line, cells in rows:
        escaped = [re.sub(r"([\\|*_<>`\[\]])", r"\\\1", cell) for cell in cells]
        lines.append(_bold(headings, line, escaped, table, "**{}**"))
    body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{body}\n{' '.join(_legend(table))}\n"


def as_latex(table: Comparison) -> str:
    """A table of LaTeX with the rules of the package booktabs; winners stand in it where ``points`` asks for them."""
    headings, rows = _cells(table, points=bool(table.points))
    titles = [_stacked(column) for column in headings]
    body: list[str] = []
    before = rows[0][0].family if rows else ""
    for line, cells in rows:
        body += [r"\midrule"] if line.family != before else []
        before = line.family
        escaped = [latex_escaped(cell) for cell in cells]
        body.append(_row(_bold(headings, line, escaped, table, r"\textbf{{{}}}")))
    name = re.sub(r"[^A-Za-z0-9:.-]+", "-", table.sweep)
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_escaped(' '.join((f'{table.sweep}.', *_legend(table))))}}}",
        rf"\label{{tab:{name}}}",
        r"\small",
        rf"\begin{{tabular}}{{{''.join('r' if column.figures else 'l' for column in headings)}}}",
        r"\toprule",
        _row(titles),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


FORMATS: Mapping[str, Callable[[Comparison], str]] = {
    "csv": as_csv,
    "json": as_json,
    "markdown": as_markdown,
    "latex": as_latex,
}
"""By the name that ``--format`` takes."""

_LATEX = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
}


def latex_escaped(text: str) -> str:
    """Text as LaTeX prints it; numbers below zero have a minus sign and no hyphen."""
    escaped = "".join(_LATEX.get(sign, sign) for sign in text)
    return re.sub(r"(?<![\w.$+-])-(?=\d)", "$-$", escaped)


def _cells(table: Comparison, points: bool) -> tuple[list[TableColumn], list[tuple[Line, list[str]]]]:
    """The columns of a page, names first, and the cells of each line."""
    found = table.names
    metric = table.shown[0].metric if table.shown else ""
    every = columns(table.shown, table.baselines, points)
    found += [column for column in every if column.name == metric or column.name not in UNPRINTED]
    return found, [(line, [_plain(column.cell(line)) for column in found]) for line in table.shown]


def _bold(headings: Sequence[TableColumn], line: Line, cells: Sequence[str], table: Comparison, mark: str) -> list[str]:
    """The cells of a line with name and metric in bold, where it is the baseline or not told apart from it."""
    marked = ("strategy", line.metric) if table.supported(line) else ()
    return [mark.format(cell) if one.name in marked else cell for one, cell in zip(headings, cells, strict=True)]


def _plain(cell: str) -> str:
    """A cell on one line, without the blanks that keep a terminal's columns straight, and without undefined spreads."""
    text = re.sub(r" +", " ", ", ".join(cell.split("\n"))).strip()
    return re.sub(r" ?± -$", "", text)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    winner = row.get("winner") or {}
    return {k: v for k, v in row.items() if k != "winner"} | {f"winner.{path}": value for path, value in winner.items()}


def _legend(table: Comparison) -> list[str]:
    """What must stand below figures that are printed."""
    told = notes.figures(table.shown) + notes.apart(table.differ)
    told += notes.support(table.lines, table.baselines, table.named)
    return told + notes.references(table.shown)


def _stacked(column: TableColumn) -> str:
    lines = [latex_escaped(line) for line in column.heading.split("\n")]
    side = "r" if column.figures else "l"
    stacked = rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}" + r"\\".join(lines) + r"\end{tabular}"
    return lines[0] if len(lines) == 1 else stacked


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
