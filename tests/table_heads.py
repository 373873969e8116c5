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

from heads import INDENT, MEASURED, PACK, ROOT

from raycl.results.landscapes import read_table
from raycl.results.packing import TRIALS_FILE
from raycl.sweep.simulate import simulate, summary

PACKS = Path("analysis", "tables")
PROTOCOLS = ("first_tasks=1", "first_tasks=3", "end_of_training")
SEARCH: dict[str, Any] = {"sampler": "random", "trials": 8, "repeats": 150}


def measured(folder: Path) -> list[list[str]]:
    """Titles, and a row for each method: test accuracy by protocol, and of the best point of all."""
    table = read_table(folder)
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


def lines(folder: Path) -> Iterator[str]:
    """The lines of a head that are measured."""
    options = " ".join(f"--{name} {value}" for name, value in SEARCH.items())
    yield f"{MEASURED}test accuracy in percent of what {SEARCH['repeats']} simulated searches choose, mean ± half-width"
    yield f"{INDENT}of the 95 % t-interval over the searches; best point: by test data, as no search may look for it."
    yield f"{PACK}{(PACKS / folder.name).as_posix()}"
    yield f"{INDENT}raycl simulate PACK --protocol PROTOCOL {options}"
    table = measured(folder)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield (INDENT + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()


def rewritten(text: str, folder: Path) -> str:
    """A sweep file with the figures of its pack, in place of those before.

    Raises:
        ValueError: the head has no line for them.
    """
    own = text.splitlines()
    start = next((place for place, line in enumerate(own) if line.startswith(MEASURED)), None)
    if start is None:
        raise ValueError(f"{folder.name}: a head with a pack has a line that starts with {MEASURED!r}")
    titles = [place for place, line in enumerate(own) if all(protocol in line for protocol in PROTOCOLS)]
    end, methods = (titles[0] if titles else start) + 1, read_table(folder).methods
    while own[end].removeprefix(INDENT).split(" ")[0] in methods:
        end += 1
    return "\n".join((*own[:start], *lines(folder), *own[end:])) + "\n"


def kept() -> dict[str, Path]:
    """Name -> the folder of every pack."""
    return {path.parent.name: path.parent for path in sorted((ROOT / PACKS).glob(f"*/{TRIALS_FILE}"))}


def sweep_file(name: str) -> Path:
    return ROOT / "sweeps" / "tables" / f"{name}.yaml"


if __name__ == "__main__":
    for name in sys.argv[1:] or kept():
        file = sweep_file(name)
        file.write_text(rewritten(file.read_text(), kept()[name]))
