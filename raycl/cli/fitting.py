"""Tables of words and figures that leave columns out where a terminal has no room for them: no figure is cut short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

WIDE = 10_000


@dataclass(frozen=True)
class Fitting:
    """A table.

    Attributes:
        spared: headings of the columns that go first where there is no room, the first one first.
        right: headings of columns of figures.
        folded: headings of columns whose cells may take several lines.
        narrowest: signs of a line of these, at the least.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    spared: Sequence[str] = ()
    right: Sequence[str] = ()
    folded: Sequence[str] = ()
    narrowest: int = 24

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for count in range(len(self.spared) + 1):
            kept = [place for place, heading in enumerate(self.headings) if heading not in self.spared[:count]]
            table = self._of(kept)
            widest = Measurement.get(console, options.update(max_width=WIDE), table).maximum
            if widest - sum(self._longest(place) - self._least(place) for place in kept) <= options.max_width:
                break
        yield table

    def _longest(self, place: int) -> int:
        """Signs of the longest line in a column."""
        cells = (self.headings[place], *(row[place] for row in self.rows))
        return max(len(line) for cell in cells for line in cell.split("\n"))

    def _least(self, place: int) -> int:
        """Signs that a column must have room for."""
        longest = self._longest(place)
        return min(self.narrowest, longest) if self.headings[place] in self.folded else longest

    def _of(self, kept: Sequence[int]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for place in kept:
            heading = self.headings[place]
            side: Literal["left", "right"] = "right" if heading in self.right else "left"
            least = self._least(place)
            table.add_column(
                heading, justify=side, no_wrap=heading not in self.folded, overflow="fold", min_width=least
            )
        for row in self.rows:
            table.add_row(*(escape(row[place]) for place in kept))
        return table
