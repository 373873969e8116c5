"""What the heads of the shipped sweeps on papers say: the tables of what was measured, beside what was published.

A table is a line of titles and a row for each method; what stands two blanks or more apart are cells. Titles are those
of :data:`TITLES`, and a row is named by its entry (``ewc``, ``permuted/gem``); or they are variants, and a row is named
by its method, whose average accuracy stands there. Behind a cell a published figure may stand in brackets, and behind
the cells of a row text, which names published figures, and whose they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raycl.cli.shipped import shipped
from raycl.spec.entry import entry_key
from raycl.spec.source import read

PAPERS = "papers/"
TITLES = {
    "average %": "average_accuracy",
    "forgetting %": "forgetting",
    "learning %": "learning_accuracy",
    "backward transfer %": "backward_transfer",
    "state": "state",
    "parameters": "parameters",
    "winner": "winner",
}
"""Of the columns -> what they hold; accuracies and what is made of them are those of the matrices, in percent."""
MEASURED, PACK = "# Measured:  ", "# Pack:      "
_FIGURE = r"[-+]?[\d,]+(?:\.\d+)?(?: ± \d+\.\d+)?(?: [kMGT]?B)?(?: \((?:\d+ seeds?|each seed)\))?"
CELL = re.compile(rf"(?:-|{_FIGURE}|\w+=[^ ,]+(?:, \w+=[^ ,]+)*)( \([\d.]+\))?")
"""A cell, and the published figure behind it."""
_PUBLISHED = re.compile(r"(?:published|paper|authors) [^;]*")


@dataclass(frozen=True)
class PaperRow:
    """A method of a paper's sweep, in one of its variants.

    Attributes:
        sweep: its name among the shipped ones.
        key: of the entry.
        accuracy: average accuracy in per cent with its interval, as the head has it; empty where it was not measured.
        published: figure and source, as the head has them; empty where it names none.
    """

    sweep: str
    key: str
    accuracy: str = ""
    published: str = ""


def parts(line: str) -> list[str]:
    """What stands two blanks or more apart."""
    return re.split(r" {2,}", line.removeprefix("#").strip())


def is_titles(found: Sequence[str], variants: set[str]) -> bool:
    """Whether the parts of a line are the titles of a table: of metrics, or variants."""
    return set(found) <= TITLES.keys() or set(found) <= variants


def cells(row: Sequence[str], count: int) -> tuple[list[re.Match[str] | None], list[str]]:
    """The first ``count`` cells of a row behind its name, None from where there are none, and the text behind them."""
    found: list[re.Match[str] | None] = []
    left = list(row[1:])
    for _ in range(count):
        cell = CELL.fullmatch(left[0]) if left else None
        found.append(cell)
        left = left[1:] if cell else left
    return found, left


def measured(strategy: str) -> list[PaperRow]:
    """Every entry of a shipped paper's sweep that is of a method, in the order of the files; those whose head holds no
    figure of them too."""
    found: list[PaperRow] = []
    for name, file in shipped().items():
        if name.startswith(PAPERS):
            found += _of_file(name, file, strategy)
    return found


def _of_file(name: str, file: Path, strategy: str) -> list[PaperRow]:
    data = read(file).data
    own = [alias for alias, block in data["strategies"].items() if _strategy(alias, block) == strategy]
    variants = list(data.get("variants", {}))
    keys = [entry_key(variant, alias) for variant in variants or [""] for alias in own]
    known = {one.key: one for one in _rows(name, file.read_text(encoding="utf-8").splitlines(), variants)}
    return [known[key] for key in keys if key in known] or [PaperRow(name, alias) for alias in own]


def _strategy(alias: str, block: object) -> object:
    return block.get("strategy", alias) if isinstance(block, dict) else alias


def _rows(name: str, lines: Sequence[str], variants: Sequence[str]) -> Iterator[PaperRow]:
    """The rows of all tables of a head, one for each entry: a row over variants is several."""
    head = [line for line in lines if line.startswith("#")]
    titles: list[str] | None = None
    for line in head:
        row = parts(line)
        if is_titles(row, set(variants)):
            titles = row
        elif titles is not None and len(row) > 1 and " - " not in row[0]:
            yield from _entries(name, row, titles)
        else:
            titles = None if titles is None or " - " not in row[0] else titles


def _entries(name: str, row: Sequence[str], titles: Sequence[str]) -> Iterator[PaperRow]:
    found, text = cells(row, len(titles))
    said = _PUBLISHED.search("   ".join(text))
    for title, cell in zip(titles, found, strict=True):
        if cell is None or (title in TITLES and TITLES[title] != "average_accuracy"):
            continue
        beside = (cell[1] or "").strip(" ()")
        accuracy = cell[0].removesuffix(cell[1] or "")
        told = f"published {beside}" if beside else said[0].strip() if said else ""
        yield PaperRow(name, row[0] if title in TITLES else entry_key(title, row[0]), accuracy, told)
