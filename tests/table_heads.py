"""The figures in the heads of the tables: what simulated searches choose on the packs beside them.

    python tests/table_heads.py [NAME ...]

writes them anew into ``sweeps/tables/NAME.yaml`` from ``analysis/tables/NAME``, by default into every file that has a
pack: the lines ``Measured:`` and ``Pack:``, and the table right below them. Other lines are kept as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heads import INDENT, MEASURED, PACK, measured_at, rewrite

from raycl.results.landscapes import Landscapes, read_table
from raycl.sweep.simulate import simulate, summary

PACKS = Path("analysis", "tables")
PROTOCOLS = ("first_tasks=1", "first_tasks=3", "end_of_training")
SEARCH: dict[str, Any] = {"sampler": "random", "trials": 8, "repeats": 150}


def measured(table: Landscapes) -> list[list[str]]:
    """Titles, and a row for each method: test accuracy by protocol, and of the best point of all."""
    found = {protocol: rows(simulate(table, protocol=protocol, **SEARCH)) for protocol in PROTOCOLS}
    lines = [["", *PROTOCOLS, "best point"]]
    for method, last in found[PROTOCOLS[-1]].items():
        cells = [_told(found[protocol][method]) for protocol in PROTOCOLS]
        lines.append([method, *cells, f"{100 * (last['test'] + last['regret']):.2f}"])
    return lines


def rows(chosen: Any) -> dict[str, dict[str, Any]]:
    """The summary of each method."""
    return {row["strategy"]: row for row in summary(chosen).to_pylist()}


def _told(row: dict[str, Any]) -> str:
    if row["test"] is None:
        return "-"
    return f"{100 * row['test']:.2f} ± {100 * row['test_half_width']:.2f}"


def lines(name: str, known: Landscapes) -> Iterator[str]:
    """The lines of a head that are measured."""
    options = " ".join(f"--{name} {value}" for name, value in SEARCH.items())
    yield f"{MEASURED}test accuracy in percent of what {SEARCH['repeats']} simulated searches choose, mean ± half-width"
    yield f"{INDENT}of the 95 % t-interval over the searches; best point: by test data, as no search may look for it."
    yield f"{PACK}{(PACKS / name).as_posix()}"
    yield f"{INDENT}raycl simulate PACK --protocol PROTOCOL {options}"
    table = measured(known)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield (INDENT + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()


def rewritten(text: str, folder: Path) -> str:
    """A sweep file with the figures of its pack, in place of those before.

    Raises:
        ValueError: the head has no line for them.
    """
    own, table = text.splitlines(), read_table(folder)
    start = measured_at(own, folder.name)
    titles = [place for place, line in enumerate(own) if all(protocol in line for protocol in PROTOCOLS)]
    end, methods = (titles[0] if titles else start) + 1, table.methods
    while own[end].removeprefix(INDENT).split(" ")[0] in methods:
        end += 1
    return "\n".join((*own[:start], *lines(folder.name, table), *own[end:])) + "\n"


if __name__ == "__main__":
    rewrite(sys.argv[1:], PACKS, lambda text, folder, file: rewritten(text, folder))
