"""The figures in the heads of the papers' sweeps, as the packs beside them have them: nobody copies one by hand.

    python tests/heads.py [NAME ...]

writes them anew into ``sweeps/papers/NAME.yaml`` from ``analysis/papers/NAME``, by default into every file that has a
pack: the line ``Measured:``, the line ``Pack:`` behind it, and the tables below. A table is a line of titles and a row
for each method, as :mod:`raycl.cli.heads` reads them. The row ``mir - replay`` holds differences, paired by seed. For a
new row its name is enough.

Kept as they are: the order of the rows, text behind the cells of a row, a published figure in brackets behind a cell,
and all other lines. Only ``seeds 94.90, 90.52`` in a row's text is the row's first column by seed, and written as such.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raycl.catalog import catalog
from raycl.cli.heads import MEASURED, PACK, TITLES, parts
from raycl.cli.heads import cells as written_cells
from raycl.cli.heads import is_titles as are_titles
from raycl.results.collected import by_trial, unified
from raycl.results.layout import human_bytes
from raycl.results.packing import CELLS_FILE, TRIALS_FILE
from raycl.results.reading import matrix_of
from raycl.results.schema import TRIALS
from raycl.results.searched import told
from raycl.results.seed_columns import seeds_in, with_seeds
from raycl.results.statistics import LEVEL, Difference, Interval
from raycl.spec.entry import entry_key
from raycl.spec.seeds import RunSeeds
from raycl.spec.sweep import SweepSpec

ROOT = Path(__file__).parents[1]
PACKS = Path("analysis", "papers")
NO_ACCURACY = ("state", "parameters", "winner")
"""What has no interval, and no differences."""

INDENT = "#            "
DIFFERENCE = re.compile(rf"{INDENT}\S+ - \S+ ")
WHOLE = re.compile(r"(?:[-+]?[\d,]+)?")
BY_SEED = re.compile(r"seeds \d+\.\d+(?:, \d+\.\d+)*")

BySeed = Mapping[RunSeeds, float]


@dataclass(frozen=True)
class Pack:
    """What the final trials of a pack have come to.

    Attributes:
        figures: (key of the entry, quantity) -> by seed; what is not defined is absent.
        winners: key of the entry -> what its search has chosen.
    """

    name: str
    figures: Mapping[tuple[str, str], BySeed]
    winners: Mapping[str, str]

    @property
    def n(self) -> int:
        """Final seeds, of the entry that has the most."""
        return max(map(len, self.figures.values()))


def read_pack(folder: Path, file: Path) -> Pack:
    """The pack of a sweep file; figures are worked out from the cells of the matrices."""
    packed = unified([TRIALS.empty_table(), pq.read_table(folder / TRIALS_FILE)])
    cells = by_trial(pq.read_table(folder / CELLS_FILE))
    several = len(SweepSpec.load(file, catalog()).variants) > 1
    figures: dict[tuple[str, str], dict[RunSeeds, float]] = defaultdict(dict)
    winners: dict[str, str] = {}
    for trial in with_seeds(packed).to_pylist():
        if trial["phase"] != "final" or trial["status"] != "finished":
            continue
        measured = matrix_of(cells[trial["trial"]], trial["num_tasks"]).metrics()
        values = {name: 100 * value for name, value in measured.items()}
        values["state"] = trial["state_bytes"] + trial["buffer_bytes"]
        values["parameters"] = trial["parameters"]
        point = json.loads(trial["spec"])["point"]
        for key in _entries(trial, several):
            winners[key] = ", ".join(f"{path.rpartition('.')[2]}={told(value)}" for path, value in point.items())
            for name, value in values.items():
                if not math.isnan(value):
                    figures[key, name][seeds_in(trial)] = value
    return Pack(folder.name, {key: dict(sorted(own.items(), key=_in_order)) for key, own in figures.items()}, winners)


def _entries(trial: Mapping[str, Any], several: bool) -> list[str]:
    """Who asks for a trial; older packs name the method that ran it first, and its variant, of whatever file."""
    asking: list[str] | None = trial.get("entries")
    return [entry_key(trial["variant"] if several else "", trial["alias"])] if asking is None else asking


def _in_order(own: tuple[RunSeeds, float]) -> tuple[int, ...]:
    return own[0].values


@dataclass(frozen=True)
class Table:
    """The columns of one table of a head."""

    titles: Sequence[str]
    pack: Pack

    def names(self, row: str) -> list[str]:
        """The one or two methods of a row by its name; none where the pack does not know them."""
        names = row.split(" - ")
        return names if len(names) < 3 and all(map(self._knows, names)) else []

    def _knows(self, name: str) -> bool:
        return any(self._place(name, title)[0] in self.pack.winners for title in self.titles)

    def row(self, before: Sequence[str]) -> list[str]:
        """Name, cells and text of a row.

        Args:
            before: its name, its former cells, and its text.

        Raises:
            ValueError: it names nothing that the pack holds.
        """
        names = self.names(before[0])
        if not names:
            known = ", ".join(self.pack.winners)
            raise ValueError(f"{self.pack.name}: a row names an entry of the pack (got {before[0]!r}; known: {known})")
        former, left = written_cells(before, len(self.titles))
        pairs = zip(self.titles, former, strict=True)
        cells = [self._cell(names, title) + (cell[1] or "" if cell else "") for title, cell in pairs]
        seeds = ", ".join(f"{value:.2f}" for value in self._by_seed(names[0], self.titles[0]).values())
        return [before[0], *cells, BY_SEED.sub(f"seeds {seeds}", "   ".join(left))]

    def _cell(self, names: Sequence[str], title: str) -> str:
        """Of one method, or of the difference between two, which has accuracies alone."""
        quantity = self._place(names[0], title)[1]
        own = [self._by_seed(name, title) for name in names]
        if len(own) == 2:
            difference = None if quantity in NO_ACCURACY else Difference.of(*own)
            return _told(difference.interval, self.pack.n, "+") if difference else "-"
        if quantity == "winner":
            return self.pack.winners[names[0]] or "-"
        found = Interval.of(own[0].values())
        if found is None:
            return "-"
        if quantity in NO_ACCURACY:
            return human_bytes(found.mean) if quantity == "state" else f"{found.mean:,.0f}"
        return _told(found, self.pack.n)

    def _by_seed(self, name: str, title: str) -> BySeed:
        return self.pack.figures.get(self._place(name, title), {})

    def _place(self, name: str, title: str) -> tuple[str, str]:
        """Key of the entry and quantity: of a metric's title, or of a variant's."""
        return (name, TITLES[title]) if title in TITLES else (entry_key(title, name), "average_accuracy")


def rewritten(text: str, pack: Pack) -> str:
    """A sweep file with the figures of its pack.

    Raises:
        ValueError: the head has no line for them, or a row names no entry of the pack.
    """
    lines = text.splitlines()
    start = measured_at(lines, pack.name)
    after = start + 1 + lines[start + 1].startswith(PACK)
    end = next(place for place, line in enumerate(lines) if not line.startswith("#"))
    below = list(_with_tables(lines[after:end], pack))
    return "\n".join((*lines[:start], *_opening(pack, below), *below, *lines[end:])) + "\n"


def measured_at(lines: Sequence[str], name: str) -> int:
    """Where the figures of a head begin.

    Raises:
        ValueError: it has no line for them.
    """
    for place, line in enumerate(lines):
        if line.startswith(MEASURED):
            return place
    raise ValueError(f"{name}: a head with a pack has a line that starts with {MEASURED!r}")


def _opening(pack: Pack, below: Sequence[str]) -> tuple[str, str]:
    """The lines that say what the figures below are."""
    interval = f"mean ± half-width of the {LEVEL:.0%} t-interval over the {pack.n} final seeds".replace("%", " %")
    paired = "; differences paired by seed" if any(map(DIFFERENCE.match, below)) else ""
    return (
        f"{MEASURED}{interval if pack.n > 1 else 'one final seed'}, in percent of test data.",
        f"{PACK}{(PACKS / pack.name).as_posix()}, this file as it stands{paired}.",
    )


def _with_tables(lines: Sequence[str], pack: Pack) -> Iterator[str]:
    """The lines with the cells of their tables written anew."""
    rest = list(lines)
    while rest:
        titles = parts(rest[0])
        if not is_titles(titles, pack):
            yield rest.pop(0)
            continue
        table, rows = Table(titles, pack), []
        rest.pop(0)
        while rest and (len(row := parts(rest[0])) > 1 or table.names(row[0])):
            rows.append(table.row(row))
            rest.pop(0)
        yield from _laid_out(titles, rows)


def is_titles(found: Sequence[str], pack: Pack) -> bool:
    """Whether the parts of a line are the titles of a table: of metrics, or variants of the pack."""
    return are_titles(found, {key.partition("/")[0] for key in pack.winners if "/" in key})


def _told(found: Interval, n: int, sign: str = "") -> str:
    """``95.01 ± 0.50``; how many seeds there are, where they are not ``n`` or are one; that they are equal."""
    seeds = f" ({found.n} seed{'s' if found.n > 1 else ''})" if found.n != n or n == 1 else ""
    margin = f" ± {found.margin:.2f}" if not math.isnan(found.margin) else " (each seed)" if found.n > 1 else ""
    return f"{found.mean:{sign}z.2f}{margin}{seeds}"


def _laid_out(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table."""
    names, *cells, texts = zip(*rows, strict=True)
    columns = [names, *map(_pointed, cells)]
    widths = [max(map(len, (head, *column))) for head, column in zip(("", *titles), columns, strict=True)]
    for line in (("", *titles, ""), *zip(*columns, texts, strict=True)):
        padded = [part.ljust(width) for part, width in zip(line, (*widths, 0), strict=True)]
        yield (INDENT + "   ".join(padded)).rstrip()


def _pointed(column: Sequence[str]) -> list[str]:
    """Cells with the points of their numbers below one another."""
    whole = [WHOLE.match(text)[0] for text in column]  # type: ignore[index]
    return [" " * (max(map(len, whole)) - len(own)) + text for own, text in zip(whole, column, strict=True)]


def kept(packs: Path = PACKS) -> dict[str, Path]:
    """Name -> the folder of every pack."""
    return {path.parent.name: path.parent for path in sorted((ROOT / packs).glob(f"*/{TRIALS_FILE}"))}


def sweep_file(name: str, packs: Path = PACKS) -> Path:
    """The sweep that a pack answers: in the folder of the same name."""
    return ROOT / "sweeps" / packs.name / f"{name}.yaml"


def rewrite(names: Sequence[str], packs: Path, anew: Callable[[str, Path, Path], str]) -> None:
    """Write the heads of sweeps anew, by default of all that have a pack.

    Args:
        anew: a file's text, its pack and its path -> its text with the figures of the pack.
    """
    folders = kept(packs)
    for name in names or folders:
        file = sweep_file(name, packs)
        file.write_text(anew(file.read_text(), folders[name], file))


if __name__ == "__main__":
    rewrite(sys.argv[1:], PACKS, lambda text, folder, file: rewritten(text, read_pack(folder, file)))
