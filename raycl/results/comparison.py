"""Which trials answer a sweep's question: one line per method and variant, over its final seeds."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from raycl.catalog import catalog
from raycl.errors import RayclError
from raycl.matrix import METRICS, Verdict
from raycl.results.failures import Failure, failures_of
from raycl.results.inside import INSIDE_METRICS, WINDOWS
from raycl.results.packed import Pack
from raycl.results.packed_standing import packed_standings
from raycl.results.pareto import ParetoPoint, pareto_points
from raycl.results.questions import Question, question_of
from raycl.results.reading import matrices, read_trials, unfinished
from raycl.results.recalled import Told
from raycl.results.remarks import remarks
from raycl.results.searched import Searched, searched
from raycl.results.seed_columns import seeds_in
from raycl.results.standing import PHASES, Asked, Standing, owners, standings, told_failures
from raycl.results.statistics import Interval, Spread
from raycl.results.store import ResultsFolder
from raycl.spec.entry import entry_key
from raycl.spec.seeds import RunSeeds
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec

Scored = Literal["test", "validation", "nothing"]

COMPARED = ("average_accuracy", "forgetting", "learning_accuracy", "backward_transfer")
LESS_IS_BETTER = (
    "forgetting",
    "forgetting_all_rows",
    "intransigence",
    "stability_gap",
    "windowed_forgetting_10",
    "windowed_forgetting_100",
)
"""Metrics of which a method wants little."""
REFERRED = "intransigence"
"""Compared too, where the sweep has cumulative training: its diagonal is the reference (Chaudhry et al. 2018)."""
MACHINE = ("cpu_capability", "threads", "torch")
"""Numbers are equal to the last bit only where these are."""

EndedTrial = Mapping[str, Any]
"""One row of the trials table."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """One method in one variant.

    Attributes:
        scored_on: ``test`` over the final seeds; ``validation``: the winner, or the best suggestion so far, over its
            validation seeds, where no final trial has finished.
        trials: hashes of the finished trials that the figures come from.
        planned: final trials of the sweep; None where it has none, or cannot be read by this installation.
        failed: the method's trials that failed, in every phase.
        told: how many failed in each phase, and why.
        failure: why the method has ended without its result, or with a part of it; empty where it lacks nothing.
        complete: nothing of it is left to run.
        metrics: those of :data:`COMPARED` that are defined, and :data:`REFERRED` where there is a reference.
        seconds: wall seconds per trial; memory: bytes of state and buffer after the last task.
        machines: the different settings of :data:`MACHINE`.
        reference: alias of the cumulative training that intransigence is measured against.
        remarks: what must be known of the trials before their figures are believed.
        barred: why the method cannot run in this variant.
        metric: what methods are compared by; ``by_seed``: that of each of ``trials``, by its run's seeds.
        search: what was searched, and what it came to; None where nothing was.
        pareto: of a search with several objectives, what its points come to on test data.
        optimism: search metric of the winner on validation data, less its mean on test data of the same tasks.
        place: in a table of several folders, which of them it is of; ``alone``: compared with lines of that one alone.
    """

    variant: str
    alias: str
    strategy: str
    scored_on: Scored = "nothing"
    trials: tuple[str, ...] = ()
    planned: int | None = None
    failed: tuple[Failure, ...] = ()
    told: tuple[str, ...] = ()
    failure: str = ""
    complete: bool = True
    upper_bound: bool = False
    metrics: Mapping[str, Spread] = field(default_factory=dict)
    seconds: Spread | None = None
    memory: Spread | None = None
    parameters: Spread | None = None
    machines: frozenset[tuple[Any, ...]] = frozenset()
    barred: str | None = None
    reference: str | None = None
    remarks: tuple[str, ...] = ()
    by_seed: Mapping[RunSeeds, float] = field(default_factory=dict)
    search: Searched | None = None
    optimism: float | None = None
    pareto: tuple[ParetoPoint, ...] = ()
    metric: str = "average_accuracy"
    place: str = ""
    alone: bool = True

    @property
    def interval(self) -> Interval | None:
        """Of the metric over the final seeds; None where there are none yet."""
        return Interval.of(self.by_seed.values()) if self.scored_on == "test" else None

    @property
    def key(self) -> str:
        return entry_key(self.place, entry_key(self.variant, self.alias))

    @property
    def family(self) -> str:
        """Equal for lines that are compared with one another: the variant, of one folder or of all."""
        return "/".join(filter(None, (self.place if self.alone else "", self.variant)))

    @property
    def name(self) -> str:
        """What tells it from the others of its family."""
        return self.alias if self.alone else entry_key(self.place, self.alias)

    @property
    def sign(self) -> int:
        """-1 where less of its metric is better, else 1."""
        return -1 if self.metric in LESS_IS_BETTER else 1

    @property
    def worth(self) -> float:
        """The mean of its metric, with its sign turned where less is better; below all where it has none."""
        spread = self.metrics.get(self.metric)
        return -math.inf if spread is None else self.sign * spread.mean


def lines(results: ResultsFolder) -> list[Line]:
    """The lines of a folder, by their rank on validation data within each variant: test data order nothing that was
    searched. What was not searched stands behind it, by its accuracy; barred and unscored methods stand last."""
    return compared(results).lines


class Compared(NamedTuple):
    """What a folder holds.

    Attributes:
        lines: as :func:`lines` has them.
        begun: how many of their trials have begun and not ended.
        trials: rows of the trials table by hash, of all that have ended.
        baseline: the method that the sweep names to be compared with; None where it names none.
        question: what was asked of all methods, by name: where it differs between folders, figures mean other things.
        metrics: those that the final trials have.
    """

    lines: list[Line]
    begun: int
    trials: Mapping[str, EndedTrial]
    baseline: str | None
    question: Question
    metrics: Sequence[str]


def compared(results: ResultsFolder, metric: str = "average_accuracy") -> Compared:
    """The lines of a folder, and what they come from.

    Args:
        metric: what methods are compared by, as the trials table names it.
    """
    trials = _ended_trials(results)
    sweep, begun = sweep_of(results), unfinished(results)
    if sweep is None:
        found = _lines_by_alias(results, trials, bool(begun))
    else:
        standing = standings_of(sweep, results, trials)
        costs = sweep.search.costs if sweep.search else ()
        found = [_line(one, results, trials, sweep.metric, costs) for one in standing]
        asked = owners(standing)
        begun = [name for name in begun if name in asked]  # others are nobody's, and hold nobody up
    found = _referred(found, results, {name: seeds_in(trial) for name, trial in trials.items()})
    found = [_by(line, trials, metric) for line in found]
    variants = list(dict.fromkeys(line.variant for line in found))
    found = sorted(found, key=lambda line: (variants.index(line.variant), *rank(line)))
    named = sweep.final.baseline if sweep and sweep.final else None
    return Compared(found, len(begun), trials, named, question_of(sweep, trials.values()), _known(trials.values()))


def _known(trials: Iterable[EndedTrial]) -> list[str]:
    """The metrics that some final trials have, as the trials table names them."""
    inside = [f"{name}{window}" for name in INSIDE_METRICS for window in ("", *(f"_{size}" for size in WINDOWS))]
    final = [trial for trial in trials if trial["phase"] == "final"]
    return [name for name in (*METRICS, *inside) if any(trial.get(name) is not None for trial in final)]


def _by(line: Line, trials: Mapping[str, EndedTrial], metric: str) -> Line:
    """The line with another metric to be compared by."""
    if metric == line.metric:
        return line
    own = {seeds_in(trials[name]): trials[name].get(metric) for name in line.trials}
    known = {seeds: value for seeds, value in own.items() if value is not None}
    spread = Spread.of(known.values())
    metrics = {**line.metrics, **({} if spread is None else {metric: spread})}
    return replace(line, metric=metric, by_seed=known, metrics=metrics)


def owners_of(results: ResultsFolder) -> dict[str, tuple[str, ...]]:
    """Trial -> keys of the entries that ask for it, in file order, as far as that is decided by now.

    Empty where this installation cannot read the sweep.
    """
    sweep = sweep_of(results)
    return {} if sweep is None else owners(standings_of(sweep, results))


def failures(results: ResultsFolder) -> list[Failure]:
    """Every trial of a folder that failed, once: those of the sweep's methods in its order, then those of nobody."""
    merged: dict[str, Failure] = {}
    for failure in (failure for line in lines(results) for failure in line.failed):
        known = merged.get(failure.spec.hash)
        entries = tuple(dict.fromkeys((*(known.entries if known else ()), *failure.entries)))
        merged[failure.spec.hash] = replace(failure, entries=entries)
    for trial in read_trials(results).to_pylist():
        if trial["status"] == "failed" and trial["trial"] not in merged:
            asked = Asked(TrialSpec.loads(trial["spec"]), verdict=Verdict("failed", trial["reason"] or ""))
            (merged[trial["trial"]],) = failures_of(results, [asked], ())
    return list(merged.values())


def standings_of(
    sweep: SweepSpec, results: ResultsFolder, trials: Mapping[str, EndedTrial] | None = None
) -> list[Standing]:
    """How each entry of a folder's sweep stands, or of a pack's.

    Args:
        trials: rows of the trials table by hash, where they have been read.
    """
    trials = _ended_trials(results) if trials is None else trials
    told = Told(sweep, results, trials)
    if isinstance(results, Pack):
        return packed_standings(sweep, list(trials.values()), told)
    return standings(sweep, results, told)


def _ended_trials(results: ResultsFolder) -> dict[str, EndedTrial]:
    """The rows of the trials table by hash."""
    return {trial["trial"]: trial for trial in read_trials(results).to_pylist()}


def sweep_of(results: ResultsFolder) -> SweepSpec | None:
    """The folder's sweep; None where this installation cannot read it (a method of a package that is not here)."""
    try:
        return SweepSpec.loads(results.sweep_json, catalog())
    except (RayclError, KeyError, ValueError) as error:
        log.info("the sweep file of %s cannot be read here: %s", results.files.name(""), error)
        return None


def _line(
    standing: Standing, results: ResultsFolder, trials: Mapping[str, EndedTrial], metric: str, costs: Sequence[str]
) -> Line:
    entry = standing.entry
    finished = _finished(standing.final, trials)
    scored_on: Scored = "test" if finished else "nothing"
    if not finished and not standing.failure:
        finished = _finished(standing.validated, trials)
        scored_on = "validation" if finished else "nothing"
    own = [trials[asked.spec.hash] for asked in standing.trials() if asked.spec.hash in trials]
    told = (told_failures(standing.trials(phase), phase) for phase in PHASES)
    search = searched(standing, metric, trials)
    return replace(
        _figures(entry.variant, entry.alias, entry.strategy, scored_on, finished),
        planned=standing.planned.get("final") or None,
        failed=tuple(failures_of(results, [asked for asked in standing.trials() if asked.failed], [entry.key])),
        told=tuple(text for text in told if text),
        failure=standing.failure,
        complete=standing.ended,
        upper_bound=any(trial["upper_bound"] for trial in own),
        barred=entry.barred,
        search=search,
        pareto=pareto_points(standing, trials, costs),
        optimism=_optimism(search, finished) if scored_on == "test" else None,
    )


def _optimism(search: Searched | None, finished: Sequence[EndedTrial]) -> float | None:
    """Of a winner, by what was maximised; None where that was measured on other tasks."""
    if search is None or search.elsewhere:
        return None
    scored = Spread.of(trial.get(search.metric) for trial in finished)
    return None if scored is None else search.validation - scored.mean


def _finished(asked: Iterable[Asked], trials: Mapping[str, EndedTrial]) -> list[EndedTrial]:
    return [trials[one.spec.hash] for one in asked if one.verdict is not None and one.verdict.status == "finished"]


def _figures(variant: str, alias: str, strategy: str, scored_on: Scored, finished: Sequence[EndedTrial]) -> Line:
    """A line with the figures of some trials."""
    return Line(
        variant,
        alias,
        strategy,
        scored_on,
        tuple(trial["trial"] for trial in finished),
        upper_bound=any(trial["upper_bound"] for trial in finished),
        metrics=_metrics(finished),
        seconds=Spread.of(trial["wall_seconds"] for trial in finished),
        memory=Spread.of(_sum(trial["state_bytes"], trial["buffer_bytes"]) for trial in finished),
        parameters=Spread.of(trial["parameters"] for trial in finished),
        machines=frozenset(tuple(trial[name] for name in MACHINE) for trial in finished),
        remarks=remarks(finished, entry_key(variant, alias)),
        by_seed={seeds_in(t): t["average_accuracy"] for t in finished if t["average_accuracy"] is not None},
    )


def _lines_by_alias(results: ResultsFolder, trials: Mapping[str, EndedTrial], begun: bool) -> list[Line]:
    """The lines of a folder whose sweep cannot be read here: each trial counts for the alias that ran it."""
    found = []
    for names in dict.fromkeys((t["variant"] or "", t["alias"], t["strategy"]) for t in trials.values()):
        own = [t for t in trials.values() if (t["variant"] or "", t["alias"], t["strategy"]) == names]
        final = [trial for trial in own if trial["phase"] == "final"]
        finished = [trial for trial in final if trial["status"] == "finished"]
        scored_on: Scored = "test" if finished else "nothing"
        if not finished:
            finished = _best([trial for trial in own if trial["scored_on"] == "validation"])
            scored_on = "validation" if finished else "nothing"
        asked = [Asked(TrialSpec.loads(t["spec"]), verdict=Verdict(t["status"], t["reason"] or "")) for t in own]
        told = (told_failures([one for one in asked if one.spec.phase == phase], phase) for phase in PHASES)
        failed = tuple(failures_of(results, [one for one in asked if one.failed], [names[1]]))
        line = _figures(*names, scored_on, finished)
        found.append(replace(line, failed=failed, told=tuple(text for text in told if text), complete=not begun))
    return found


def _referred(found: Sequence[Line], results: ResultsFolder, seeds: Mapping[str, RunSeeds]) -> list[Line]:
    """The lines with their intransigence against cumulative training of the same variant and seeds.

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


def _metrics(trials: Sequence[EndedTrial]) -> dict[str, Spread]:
    spreads = {name: Spread.of(trial[name] for trial in trials) for name in COMPARED}
    return {name: spread for name, spread in spreads.items() if spread is not None}


def _best(trials: Sequence[EndedTrial]) -> list[EndedTrial]:
    """The finished search trials of the point with the best mean value over its seeds."""
    points: dict[str, list[EndedTrial]] = {}
    for trial in trials:
        if trial["status"] == "finished" and trial["value"] is not None:
            points.setdefault(json.dumps(json.loads(trial["spec"])["point"], sort_keys=True), []).append(trial)
    return max(points.values(), key=lambda group: statistics.fmean(t["value"] for t in group), default=[])


def rank(line: Line) -> tuple[bool, bool, bool, float, str]:
    """Sorts lines by what is known of them from validation data, else by their metric; see :func:`lines`."""
    value = line.search.validation if line.search else line.worth
    return line.barred is not None, line.scored_on != "test", line.search is None, -value, line.alias


def _sum(*values: int | None) -> float | None:
    known = [value for value in values if value is not None]
    return float(sum(known)) if known else None
