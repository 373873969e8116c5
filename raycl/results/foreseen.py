"""How wide the interval of a mean will be, before a sweep has run: from the number of its final seeds."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycl.errors import Problem, RayclError
from raycl.results.reading import read_trials
from raycl.results.statistics import deviation, half_width
from raycl.spec.source import parse
from raycl.spec.sweep import Entry, SweepSpec

ASSUMED, SOURCE = 0.0068, "the median over the methods of analysis/papers"
"""Standard deviation of average accuracy over final seeds, of a method that no stored sweep tells of; and where it is
from: ``python benchmarks/interval_coverage.py``."""
ENOUGH = 5
"""Final seeds below which intervals are so wide that they tell little apart."""
ALIKE = ("name", "dataset", "tasks", "scenario")
"""Keys of ``stream`` that have to be equal for another sweep to tell of a method's spread."""
MOST_FOLDERS = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expected:
    """The interval to expect of a method.

    Attributes:
        margin: half-width of the 95 % t-interval of its mean; NaN of a single seed.
        n: final seeds.
        known_from: final trials of stored sweeps that its standard deviation comes from; 0: :data:`ASSUMED`.
    """

    margin: float
    n: int
    known_from: int


def expected(sweep: SweepSpec, root: str | Path) -> dict[str, Expected]:
    """What to expect of every entry with a final phase, by its key.

    Args:
        root: where results folders lie; those of the same method on a stream :data:`ALIKE` tell its spread. Nothing
            below an address of an object store is looked at.
    """
    stored = list(_stored(Path(root)))
    found = {}
    for entry in sweep.entries:
        n = sweep.runs(entry).final
        if n:
            std, trials = _spread(sweep, entry, stored)
            found[entry.key] = Expected(half_width(std, n), n, trials)
    return found


def few_seeds(sweep: SweepSpec) -> Problem | None:
    """What to be warned of, where the final phase has few seeds."""
    n = max((sweep.runs(entry).final for entry in sweep.entries), default=0)
    if not 0 < n < ENOUGH:
        return None
    wide = f"{half_width(1.0, n):.1f} standard deviations to each side" if n > 1 else "not defined"
    rule = f"few seeds: the 95 % interval of a mean is {wide} (of {ENOUGH}: {half_width(1.0, ENOUGH):.1f}); add seeds"
    return parse(sweep.text, sweep.file).problem(("final", "seeds"), rule, str(n))


def _spread(sweep: SweepSpec, entry: Entry, stored: Sequence[Mapping[str, Any]]) -> tuple[float, int]:
    """The pooled standard deviation over final seeds of a method, and of how many trials; equal ones tell nothing."""
    stream = sweep.resolved(entry, entry.middle).stream
    groups: dict[tuple[str, ...], list[float]] = {}
    for trial in stored:
        spec = trial["spec"]
        if spec["strategy"] == entry.strategy and all(spec["stream"].get(key) == getattr(stream, key) for key in ALIKE):
            learner = {key: value for key, value in spec.items() if key not in ("seed", "seeds", "alias")}
            own = groups.setdefault((trial["folder"], json.dumps(learner, sort_keys=True)), [])
            own.append(trial["average_accuracy"])
    known = [values for values in groups.values() if not math.isnan(deviation(values))]
    freedom = sum(len(values) - 1 for values in known)
    if not freedom:
        return ASSUMED, 0
    squares = math.fsum((len(values) - 1) * deviation(values) ** 2 for values in known)
    return math.sqrt(squares / freedom), sum(map(len, known))


def _stored(root: Path) -> Iterator[dict[str, Any]]:
    """The final trials that have finished in the results folders below a local one, the newest folders first."""
    heads = sorted(root.glob("*/sweep.json"), key=lambda head: head.stat().st_mtime, reverse=True)
    for folder in (head.parent for head in heads[:MOST_FOLDERS]):
        try:
            trials = read_trials(folder)
        except RayclError as error:  # of another raycl, damaged, or just being written: it tells nothing here
            log.info("%s tells of no spread: %s", folder, error)
            continue
        columns = trials.select(["phase", "status", "average_accuracy", "spec"]).to_pylist()
        for trial in columns:
            final = trial["phase"] == "final" and trial["status"] == "finished"
            if final and trial["average_accuracy"] is not None:
                yield {**trial, "folder": str(folder), "spec": json.loads(trial["spec"])}
