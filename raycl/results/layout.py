"""The columns of the comparison table, and which of them a terminal has room for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from raycl.results.baseline import Baseline
from raycl.results.comparison import Line
from raycl.results.searched import told
from raycl.results.statistics import Interval, Spread

HEADINGS = {
    "average_accuracy": "average\naccuracy %",
    "average_incremental_accuracy": "avg. incre-\nmental %",
    "forward_transfer": "forward\ntransfer %",
    "forgetting_all_rows": "forgetting,\nall rows %",
    "forgetting": "forgetting %",
    "learning_accuracy": "learning\naccuracy %",
    "backward_transfer": "backward\ntransfer %",
    "intransigence": "intransi-\ngence %",
    "pooled_accuracy": "pooled\naccuracy %",
    "pooled_average_incremental_accuracy": "pooled avg.\nincremental %",
}
SPARED = (
    "search seconds",
    "backward_transfer",
    "parameters",
    "pooled_average_incremental_accuracy",
    "intransigence",
    "points",
    "optimism",
    "seconds",
    "winner",
    "difference",
    "p",
    "memory",
    "learning_accuracy",
    "forgetting",
    "interval",
)
"""Columns that a terminal too narrow for all of them goes without, the first one first: no figure is cut short."""
METRIC_COLUMNS = (
    "average_accuracy",
    "pooled_accuracy",
    "pooled_average_incremental_accuracy",
    "forgetting",
    "learning_accuracy",
    "backward_transfer",
    "intransigence",
)
ALWAYS = ("average_accuracy", "forgetting", "learning_accuracy", "backward_transfer")
"""Metrics that have a column though no line has them; others have one where they say something."""


@dataclass(frozen=True)
class TableColumn:
    """One column.

    Attributes:
        cell: its text for a line; empty where it has nothing to say of it.
        figures: numbers, which stand flush right.
    """

    name: str
    heading: str
    cell: Callable[[Line], str]
    figures: bool = True

    @property
    def title(self) -> str:
        """The heading on one line."""
        return self.heading.replace("-\n", "").replace("\n", " ")

    def says(self, lines: Sequence[Line]) -> bool:
        return self.name in ALWAYS or any(self.cell(line).strip("-") for line in lines)


def spared_in_order(lines: Sequence[Line], points: bool | None) -> Sequence[str]:
    """:data:`SPARED` without what methods are compared by; with the winners last, where somebody asks for them."""
    names = (*SPARED[:-1], "average_accuracy", SPARED[-1])  # which may stand beside another metric
    found = [name for name in names if not any(line.metric == name for line in lines)]
    return [*(name for name in found if name != "winner"), "winner"] if points else found


def name_headings(lines: Sequence[Line]) -> Sequence[str]:
    """The columns that say whose line it is: those in which lines differ."""
    wanted = {"sweep": any(line.place for line in lines), "variant": any(line.variant for line in lines)}
    return [*(name for name, there in wanted.items() if there), "strategy"]


def columns(lines: Sequence[Line], baselines: Mapping[str, Baseline], points: bool | None = None) -> list[TableColumn]:
    """Every column that says something of these lines, from left to right.

    Args:
        points: whether winners may stand there.
    """

    compared_by = lines[0].metric if lines else ALWAYS[0]

    def metric(name: str) -> TableColumn:
        return TableColumn(name, heading(name), lambda line: percent(line, name))

    def against(line: Line) -> str:
        return _difference(line, baselines.get(line.family))

    def p_value(line: Line) -> str:
        return _p(line, baselines.get(line.family))

    others = [name for name in METRIC_COLUMNS if name != compared_by]
    every = (
        metric(compared_by),
        TableColumn("interval", "± 95 %", _interval),
        TableColumn("difference", "to base-\nline %", against),
        TableColumn("p", "p", p_value),
        TableColumn("optimism", "opti-\nmism %", _optimism),
        *map(metric, others),
        TableColumn("seconds", "seconds", lambda line: _seconds(line.seconds.mean if line.seconds else None)),
        TableColumn("memory", "memory", lambda line: "" if line.memory is None else human_bytes(line.memory.mean)),
        TableColumn("parameters", "parameters", lambda line: _count(line.parameters)),
        TableColumn("points", "points\ntried", lambda line: str(line.search.points) if line.search else ""),
        TableColumn(
            "search seconds", "search\nseconds", lambda line: _seconds(line.search.seconds if line.search else None)
        ),
        TableColumn("n", "n", seeds),
        TableColumn("winner", "winner", lambda line: "\n".join(winner(line)), figures=False),
    )
    return [column for column in every if column.says(lines) and (points is not False or column.name != "winner")]


def heading(name: str) -> str:
    """The heading of a metric's column, on two lines where it is long."""
    words = name.replace("_", " ").rpartition(" ")
    return HEADINGS.get(name) or f"{words[0]}\n{words[2]} %".lstrip()


def human_bytes(count: float) -> str:
    """``"1.8 MB"``; decimal units, as disks and papers count."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def percent(line: Line, name: str) -> str:
    """A metric's mean and standard deviation."""
    if line.barred:
        return "n/a"
    spread = line.metrics.get(name)
    if spread is None:
        return "-"
    return f"{100 * spread.mean:.2f} ± {_margin(spread.std)}"


def seeds(line: Line) -> str:
    """How many final trials have finished: ``3``, or ``1 of 3``."""
    if line.barred:
        return ""
    if line.planned is None:
        return str(len(line.trials))
    done = len(line.trials) if line.scored_on == "test" else 0
    return str(done) if done == line.planned else f"{done} of {line.planned}"


def winner(line: Line) -> list[str]:
    """Each searched value of the winner, to three digits: ``memory.capacity 200``; none before it is named."""
    if line.search is None or not line.search.ended:
        return []
    return [f"{path} {told(value)}" for path, value in line.search.winner.items()]


def _margin(value: float) -> str:
    return "   -" if math.isnan(value) else f"{100 * value:4.2f}"


def mean_and_margin(line: Line) -> str:
    """What a line is compared by, in per cent, with its interval: ``82.32 ± 1.83 %``."""
    return "-" if line.interval is None else f"{interval_in_percent(line.interval)} %"


def interval_in_percent(found: Interval, sign: str = "") -> str:
    """``82.32 ± 1.83``; the mean alone where there is no interval.

    Args:
        sign: ``+`` for a difference.
    """
    margin = "" if math.isnan(found.margin) else f" ± {100 * found.margin:.2f}"
    return f"{100 * found.mean:{sign}.2f}{margin}"


def _interval(line: Line) -> str:
    return f"± {_margin(line.interval.margin)}" if line.interval else ""


def _difference(line: Line, baseline: Baseline | None) -> str:
    found = baseline.against.get(line.key) if baseline else None
    if found is None:
        return ""
    return f"{100 * found.difference.mean:+.2f} ± {_margin(found.difference.margin)}"


def _p(line: Line, baseline: Baseline | None) -> str:
    found = baseline.against.get(line.key) if baseline else None
    if found is None:
        return ""
    return "-" if math.isnan(found.p) else rounded_p(found.p)


def rounded_p(p: float) -> str:
    """A p that is defined, with three digits."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _optimism(line: Line) -> str:
    return "" if line.optimism is None else f"{100 * line.optimism:+.2f}"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.{1 if seconds < 100 else 0}f}"


def _count(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.mean:,.0f}"
