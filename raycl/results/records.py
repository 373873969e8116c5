"""The lines of a comparison as a table of Arrow."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from raycl.results.baseline import Baseline
from raycl.results.comparison import COMPARED, REFERRED, Line
from raycl.results.pooled import POOLED

RECORDS = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("sweep", "variant", "alias", "strategy", "scored_on")),
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
        pa.field("average_accuracy_margin", pa.float64()),
        *(pa.field(name, pa.string()) for name in ("baseline", "baseline_chosen_by")),
        *(pa.field(name, pa.float64()) for name in ("difference_mean", "difference_margin", "p_value")),
        *(pa.field(name, pa.int32()) for name in ("difference_seeds", "comparisons")),
        pa.field("in_group", pa.bool_()),
        pa.field("winner", pa.string()),
        *(pa.field(name, pa.float64()) for name in ("validation", "optimism", "search_seconds")),
        *(pa.field(name, pa.int32()) for name in ("search_points", "search_trials")),
        pa.field("complete", pa.bool_()),
        pa.field("metric", pa.string()),
    ]
)
"""Undefined figures are null. ``*_margin``: half-width of the 95 % t-interval of a mean. ``metric``: what methods are
compared by; ``difference``: that of the method less the baseline's, over ``difference_seeds``; ``p_value``: corrected
for ``comparisons``; ``in_group``: not told apart from the baseline, or it. ``winner``: its point as JSON;
``search_points``: distinct points tried; ``complete``: nothing of it is left to run."""


def records_of(lines: Sequence[Line]) -> pa.Schema:
    """:data:`RECORDS` with columns for what the lines are compared by."""
    names = dict.fromkeys(f"{line.metric}_{part}" for line in lines for part in ("mean", "std", "margin"))
    more = [pa.field(name, pa.float64()) for name in names if name not in RECORDS.names]
    return pa.schema([*RECORDS, *more])


def record(line: Line, baseline: Baseline | None) -> dict[str, Any]:
    """A line as a row of :data:`RECORDS`.

    Args:
        baseline: of its variant.
    """
    figures: dict[str, float] = {}
    for name, spread in line.metrics.items():
        figures |= {f"{name}_mean": spread.mean, f"{name}_std": spread.std}
    means = {"seconds": line.seconds, "memory_bytes": line.memory, "parameters": line.parameters}
    row = {
        **{
            name: getattr(line, name)
            for name in ("variant", "alias", "strategy", "scored_on", "planned", "complete", "metric")
        },
        "seeds": len(line.trials),
        "failed": len(line.failed),
        "upper_bound": line.upper_bound,
        "barred": line.barred,
        "reference": line.reference,
        "failure": line.failure or None,
        "optimism": line.optimism,
        **figures,
        **{name: spread.mean for name, spread in means.items() if spread is not None},
        **({f"{line.metric}_margin": line.interval.margin} if line.interval else {}),
        **_search(line),
        **_against(line, baseline),
    }
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def _search(line: Line) -> dict[str, Any]:
    if line.search is None:
        return {}
    return {
        "winner": json.dumps(dict(line.search.winner), sort_keys=True),
        "validation": line.search.validation,
        "search_points": line.search.points,
        "search_trials": line.search.trials,
        "search_seconds": line.search.seconds,
    }


def _against(line: Line, baseline: Baseline | None) -> dict[str, Any]:
    if baseline is None or line.scored_on != "test":
        return {}
    row = {
        "baseline": baseline.key,
        "baseline_chosen_by": baseline.chosen_by,
        "comparisons": baseline.comparisons,
        "in_group": line.key in baseline.group,
    }
    found = baseline.against.get(line.key)
    if found is None:
        return row
    difference = found.difference
    figures = {"difference_mean": difference.mean, "difference_margin": difference.margin, "p_value": found.p}
    return row | figures | {"difference_seeds": difference.n}
