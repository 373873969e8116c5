"""Pooled accuracies of a comparison's lines, where tasks differ so much in size that they say something else."""

from __future__ import annotations

from dataclasses import replace

from raycl.results.comparison import Line
from raycl.results.reading import stored_matrix, stored_sizes
from raycl.results.statistics import Spread
from raycl.results.store import ResultsFolder

POOLED = ("pooled_accuracy", "pooled_average_incremental_accuracy")
UNEQUAL = 1.25
"""Tasks are unequal where the largest has so many times the examples of the smallest. MNIST's pairs of digits count as
equal: there the two accuracies differ by tenths of a point."""


def with_pooled(line: Line, results: ResultsFolder) -> Line:
    """The line with :data:`POOLED` among its metrics where tasks are unequal: from counts, so for old results too."""
    if not line.trials:
        return line
    sizes = stored_sizes(results, line.trials[0])
    sizes = sizes[sizes > 0]
    if not len(sizes) or sizes.max() < UNEQUAL * sizes.min():
        return line
    measured = [stored_matrix(results, trial) for trial in line.trials]
    spreads = {name: Spread.of(getattr(matrix, name)() for matrix in measured) for name in POOLED}
    return replace(line, metrics={**line.metrics, **{name: found for name, found in spreads.items() if found}})
