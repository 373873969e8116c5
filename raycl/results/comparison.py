"""Which trials answer a sweep's question: one line per method and variant, over its final seeds."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from raycl.catalog import catalog
from raycl.errors import RayclError
from raycl.results.reading import matrices, read_trials
from raycl.results.store import Results
from raycl.spec.sweep import Entry, SweepSpec

COMPARED = ("average_accuracy", "forgetting", "learning_accuracy", "backward_transfer")
REFERRED = "intransigence"
"""Compared too, where the sweep has cumulative training: its diagonal is the reference (Chaudhry et al. 2018)."""
MACHINE = ("cpu_capability", "threads", "torch")
"""Numbers are equal to the last bit only where these are."""

Trial = Mapping[str, Any]
"""One row of the trials table."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) over seeds; the deviation of one value is NaN."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Over the defined values; None where there are none."""
        known = [value for value in values if value is not None and math.isfinite(value)]
        if not known:
            return None
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else math.nan, len(known))


@dataclass(frozen=True)
class Line:
    """One method in one variant.

    Attributes:
        scored_on: ``test`` over the final seeds; ``validation``: the best search trial, where no final one has ended.
        trials: hashes of the finished trials that the figures come from.
        planned: final trials of the sweep; None where the sweep file cannot be read by this installation.
        failed: reasons of the trials that failed.
        metrics: those of :data:`COMPARED` that are defined, and :data:`REFERRED` where there is a reference.
        seconds: wall seconds per trial; memory: bytes of state and buffer after the last task.
        machines: the different settings of :data:`MACHINE`.
        reference: alias of the cumulative training that intransigence is measured against.
        barred: why the method cannot run in this variant.
    """

    variant: str
    alias: str
    strategy: str
    scored_on: Literal["test", "validation", "nothing"] = "nothing"
    trials: tuple[str, ...] = ()
    planned: int | None = None
    failed: tuple[str, ...] = ()
    upper_bound: bool = False
    metrics: Mapping[str, Spread] = field(default_factory=dict)
    seconds: Spread | None = None
    memory: Spread | None = None
    parameters: Spread | None = None
    machines: frozenset[tuple[Any, ...]] = frozenset()
    barred: str | None = None
    reference: str | None = None

    @property
    def key(self) -> str:
        return f"{self.variant}/{self.alias}" if self.variant else self.alias

    @property
    def complete(self) -> bool:
        """Whether every final trial of the line has ended."""
        ended = len(self.trials) + len(self.failed) if self.scored_on == "test" else len(self.failed)
        return self.barred is not None or self.planned is None or ended >= self.planned


def lines(results: Results) -> list[Line]:
    """The lines of a folder, best accuracy first within each variant; barred and unscored methods stand last."""
    trials = {trial["trial"]: trial for trial in read_trials(results).to_pylist()}
    sweep = _sweep(results)
    if sweep is None:
        entries = dict.fromkeys((t["variant"] or "", t["alias"], t["strategy"]) for t in trials.values())
        found = [_line(Entry(*names, space={}), None, trials) for names in entries]
    else:
        found = [_line(entry, _final(sweep, entry, results), trials) for entry in sweep.entries]
    found = _referred(found, results, {name: trial["seed"] for name, trial in trials.items()})
    variants = list(dict.fromkeys(line.variant for line in found))
    return sorted(found, key=lambda line: (variants.index(line.variant), *_rank(line)))


def _sweep(results: Results) -> SweepSpec | None:
    """The folder's sweep; None where this installation cannot read it (a method of a package that is not here)."""
    try:
        return SweepSpec.loads(results.sweep_json, catalog())
    except (RayclError, KeyError, ValueError) as error:
        log.info("the sweep file of %s cannot be read here: %s", results.uri, error)
        return None


def _final(sweep: SweepSpec, entry: Entry, results: Results) -> Sequence[str] | None:
    """Hashes of an entry's final trials; entries that came to the same point share them.

    None where the sweep has no final phase; the seeds stand for them while no winner is named.
    """
    if sweep.final is None or entry.barred:
        return None
    winner = results.read_json(f"winners/{entry.stored_as}.json") if entry.space else {"point": {}}
    if winner is None:
        return [f"seed {seed}" for seed in sweep.final.seeds]
    return [sweep.trial(entry, winner["point"], seed, "final").hash for seed in sweep.final.seeds]


def _line(entry: Entry, final: Sequence[str] | None, trials: Mapping[str, Trial]) -> Line:
    own = [t for t in trials.values() if (t["variant"] or "", t["alias"]) == (entry.variant, entry.alias)]
    if final is None:
        chosen = [trial for trial in own if trial["phase"] == "final"]
    else:
        chosen = [trials[name] for name in final if name in trials]
    finished = [trial for trial in chosen if trial["status"] == "finished"]
    failed = tuple(trial["reason"] or "" for trial in chosen if trial["status"] == "failed")
    scored_on: Literal["test", "validation", "nothing"] = "test" if finished else "nothing"
    if not finished:
        best = _best([trial for trial in own if trial["scored_on"] == "validation"])
        finished, scored_on = ([best], "validation") if best else ([], "nothing")
    return Line(
        entry.variant,
        entry.alias,
        entry.strategy,
        scored_on,
        tuple(trial["trial"] for trial in finished),
        None if final is None else len(final),
        failed,
        any(trial["upper_bound"] for trial in (*finished, *own)),
        _metrics(finished),
        Spread.of(trial["wall_seconds"] for trial in finished),
        Spread.of(_sum(trial["state_bytes"], trial["buffer_bytes"]) for trial in finished),
        Spread.of(trial["parameters"] for trial in finished),
        frozenset(tuple(trial[name] for name in MACHINE) for trial in finished),
        entry.barred,
    )


def _referred(found: Sequence[Line], results: Results, seeds: Mapping[str, int]) -> list[Line]:
    """The lines with their intransigence against cumulative training of the same variant and seed.

    The reference of a variant is its first cumulative entry in file order; the next one only where all trials of that
    one have failed.
    """
    references: dict[str, Line] = {}
    for line in found:
        hopeless = line.complete and not line.trials
        if line.strategy == "cumulative" and line.barred is None and not hopeless:
            references.setdefault(line.variant, line)
    scored = [line for line in found if line.scored_on == "test" and line.variant in references]
    known = matrices(results) if scored else {}
    diagonals = {
        (line.variant, seeds[name]): known[name].accuracy.diagonal()
        for line in references.values()
        if line.scored_on == "test"
        for name in line.trials
        if name in known
    }

    def referred(line: Line) -> Line:
        pairs = ((known.get(name), diagonals.get((line.variant, seeds[name]))) for name in line.trials)
        spread = Spread.of(
            matrix.intransigence(reference)
            for matrix, reference in pairs
            if matrix is not None and reference is not None
        )
        if spread is None:
            return line
        metrics = {**line.metrics, REFERRED: spread}
        return replace(line, metrics=metrics, reference=references[line.variant].alias)

    return [referred(line) if line in scored and line is not references[line.variant] else line for line in found]


def _metrics(trials: Sequence[Trial]) -> dict[str, Spread]:
    spreads = {name: Spread.of(trial[name] for trial in trials) for name in COMPARED}
    return {name: spread for name, spread in spreads.items() if spread is not None}


def _best(trials: Sequence[Trial]) -> Trial | None:
    """The search trial with the best validation value; ties go to the lowest hash."""
    scored = [trial for trial in trials if trial["status"] == "finished" and trial["value"] is not None]
    return min(scored, key=lambda trial: (-trial["value"], trial["trial"]), default=None)


def _rank(line: Line) -> tuple[bool, bool, float, str]:
    accuracy = line.metrics.get("average_accuracy")
    return line.barred is not None, line.scored_on != "test", -accuracy.mean if accuracy else math.inf, line.alias


def _sum(*values: int | None) -> float | None:
    known = [value for value in values if value is not None]
    return float(sum(known)) if known else None
