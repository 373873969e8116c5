"""How each entry of a sweep stands: the one definition of whose trial is whose, of what is left, and of done.

A trial is named by what decides its matrix, so several entries may share one, and the alias stored with it is only that
of the entry that ran it first. What an entry asks for follows from the sweep and from what is written down:
suggestions x search seeds, finalists x their seeds, the winner x the final seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycl.matrix import Verdict
from raycl.results.decisions import Decisions, read_decisions, read_winner, suggestion_path
from raycl.results.objectives import finalists
from raycl.results.outcomes import Outcome, Recall, Record, ranked, score
from raycl.results.store import ResultsFolder
from raycl.spec.choosing import chooses, choosing_trial, drawn, grid
from raycl.spec.sweep import Entry, SweepSpec
from raycl.spec.sweep_options import LimitsConfig
from raycl.spec.trial import Scalar, SweepPhase, TrialSpec

PHASES: tuple[SweepPhase, ...] = ("search", "finalists", "final", "table")


@dataclass(frozen=True)
class Asked:
    """A trial that an entry asks for.

    Attributes:
        spec: under the entry's own names, whoever ran it.
        record: how it ended; None while it has not.
        verdict: what that means under the entry's cut-offs; None while it has to run.
    """

    spec: TrialSpec
    record: Record | None = None
    verdict: Verdict | None = None
    cutoffs: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: TrialSpec, recall: Recall, cutoffs: Mapping[int, float] | None = None) -> Asked:
        record, limits = recall(spec), cutoffs or {}
        return cls(spec, record, record.under(limits) if record else None, limits)

    @classmethod
    def refused(cls, spec: TrialSpec, reason: str) -> Asked:
        """A trial that is not run, since it is known to break a limit."""
        return cls(spec, verdict=Verdict("failed", reason))

    @property
    def is_refused(self) -> bool:
        """Whether it is not run, since it is known to break a limit: then it is no trial."""
        return self.record is None and self.failed

    @property
    def failed(self) -> bool:
        return self.verdict is not None and self.verdict.status == "failed"


@dataclass(frozen=True)
class Standing:
    """One entry.

    Attributes:
        suggested: for each suggestion that is written down, its trials on the search seeds.
        outcomes: how each of them ended; None while it has not.
        again: for each finalist, by its suggestion, its trials on more validation seeds; known once the search ended.
        winner: as written down; None where there is none (yet).
        final: the winner's trials on the final seeds.
        planned: suggestions, trials of a table and final trials that the sweep asks for.
        ended: nothing is left to run.
        pareto: of several objectives, the trials of each point on the final seeds, by its suggestion.
        table: for each point of a table that is written down, its trials.
    """

    entry: Entry
    suggested: tuple[tuple[Asked, ...], ...] = ()
    outcomes: tuple[Outcome | None, ...] = ()
    again: Mapping[int, tuple[Asked, ...]] = field(default_factory=dict)
    winner: Mapping[str, Any] | None = None
    final: tuple[Asked, ...] = ()
    planned: Mapping[SweepPhase, int] = field(default_factory=dict)
    ended: bool = False
    pareto: Mapping[int, tuple[Asked, ...]] = field(default_factory=dict)
    table: tuple[tuple[Asked, ...], ...] = ()

    def trials(self, phase: SweepPhase | None = None) -> list[Asked]:
        """The entry's trials that are known by now, of one phase or of all; each stands once in a phase."""
        parts: dict[SweepPhase, Iterable[Asked]] = {
            "search": (asked for trials in self.suggested for asked in trials if not asked.is_refused),
            "finalists": (asked for trials in self.again.values() for asked in trials),
            "final": (asked for trials in (self.final, *self.pareto.values()) for asked in trials),
            "table": (asked for trials in self.table for asked in trials if not asked.is_refused),
        }
        chosen = PHASES if phase is None else (phase,)
        return [asked for name in chosen for asked in {one.spec.hash: one for one in parts[name]}.values()]

    @property
    def validated(self) -> Sequence[Asked]:
        """The winner's trials on validation data; before there is one, those of the best suggestion so far."""
        best = ranked(self.outcomes, [trials[0].spec.hash for trials in self.suggested])
        if self.winner is not None:
            point = self.winner["point"]
            best = [index for index, trials in enumerate(self.suggested) if trials[0].spec.point == point]
        return (*self.suggested[best[0]], *self.again.get(best[0], ())) if best else ()

    @property
    def failure(self) -> str:
        """Why a method that has ended lacks its result, or a part of it; empty where it lacks none."""
        if not self.ended or self.entry.barred:
            return ""
        if self.suggested and self.winner is None:
            again, search = self.trials("finalists"), self.trials("search")
            if not search:
                return no_point_fits(trials[0].verdict.reason for trials in self.suggested if trials[0].verdict)
            return no_finalist_finished(again) if again else no_suggestion_finished(search)
        if self.table:  # points that fail are part of what a table tells
            trials = self.trials("table")
            if not trials:
                return no_point_fits(points[0].verdict.reason for points in self.table if points[0].verdict)
            return told_failures(trials, "table") if all(asked.failed for asked in trials) else ""
        return told_failures(self.final, "final")


def no_point_fits(reasons: Iterable[str]) -> str:
    """Why a method has no winner: every point that was suggested breaks a limit. The nearest miss is told."""
    told = list(reasons)
    return f"none of {len(told)} points keeps within the limits; the nearest: {min(told, key=LimitsConfig.excess)}"


def no_suggestion_finished(search: Sequence[Asked]) -> str:
    """Why a method has no winner: there is nothing to choose from."""
    return f"no suggestion finished: {told_failures(search, 'search')}"


def no_finalist_finished(again: Sequence[Asked]) -> str:
    """Why a method has no winner, though suggestions have finished."""
    return f"no finalist finished on all its seeds: {told_failures(again, 'finalists')}"


def told_failures(trials: Sequence[Asked], phase: str) -> str:
    """``"2 of 3 final trials failed: REASON"``; empty where none did. Of several reasons the most frequent is told."""
    reasons = Counter(asked.verdict.reason for asked in trials if asked.verdict is not None and asked.failed)
    pruned = sum(asked.verdict is not None and asked.verdict.status == "pruned" for asked in trials)
    told = [f"{pruned} of {len(trials)} {phase} trials were pruned"] if pruned and pruned == len(trials) else []
    if reasons:
        reason, _ = reasons.most_common(1)[0]
        others = f" (and {len(reasons) - 1} more reason{'s' * (len(reasons) > 2)})" if len(reasons) > 1 else ""
        told.append(f"{reasons.total()} of {len(trials)} {phase} trials failed: {reason}{others}")
    return "; ".join(told)


def standings(sweep: SweepSpec, results: ResultsFolder, recall: Recall) -> list[Standing]:
    """Every entry of the sweep, in file order.

    Args:
        recall: what is known of an ended trial.

    Raises:
        TornFile: a decision is damaged.
    """
    decided = read_decisions(results, sweep.entries)
    return [_standing(sweep, entry, decided, recall) for entry in sweep.entries]


def owners(found: Iterable[Standing]) -> dict[str, tuple[str, ...]]:
    """Trial -> keys of the entries that ask for it, in file order. Trials that no entry asks for are not named."""
    keys: dict[str, dict[str, None]] = {}
    for standing in found:
        for asked in standing.trials():
            keys.setdefault(asked.spec.hash, {})[standing.entry.key] = None
    return {name: tuple(found) for name, found in keys.items()}


def _standing(sweep: SweepSpec, entry: Entry, decided: Decisions, recall: Recall) -> Standing:
    if entry.barred:
        return Standing(entry, ended=True)
    runs = sweep.runs(entry)
    if sweep.table is not None:
        points = _laid_out(sweep, entry, decided, recall)
        ended = len(points) == sweep.laid_out(entry) and all(map(_all_ended, points))
        return Standing(entry, table=points, planned={"table": runs.table}, ended=ended)
    planned: dict[SweepPhase, int] = {"search": runs.search, "final": len(sweep.final.runs) if sweep.final else 0}
    if chooses(sweep, entry):
        final = _choosing(sweep, entry, decided, recall)
        return Standing(entry, final=final, planned=planned, ended=bool(final) and _all_ended(final))
    if not runs.search:  # one point, and nothing to choose from
        final = _final(sweep, entry, {}, recall) if not entry.space else ()
        return Standing(entry, winner={"point": {}}, final=final, planned=planned, ended=_all_ended(final))
    suggested = _suggested(sweep, entry, decided, recall)
    outcomes = tuple(outcome_of(trials) for trials in suggested)
    again = _again(sweep, entry, suggested, outcomes, recall)
    winner = read_winner(decided.get, sweep, entry)
    others = {}
    if winner:
        others = {own["index"]: _final(sweep, entry, own["point"], recall) for own in winner.get("pareto", ())}
    final = _final(sweep, entry, winner["point"], recall) if winner else ()
    chosen = again is not None and all(map(_all_ended, again.values()))
    hopeless = chosen and not any(_scored(suggested[index], trials) for index, trials in (again or {}).items())
    ended = chosen and (hopeless or winner is not None) and all(map(_all_ended, (final, *others.values())))
    return Standing(entry, suggested, outcomes, again or {}, winner, final, planned, ended, others)


def _suggested(sweep: SweepSpec, entry: Entry, decided: Decisions, recall: Recall) -> tuple[tuple[Asked, ...], ...]:
    """The trials of each suggestion that is written down, by index."""
    assert sweep.search is not None
    carried: dict[str, Mapping[int, float]] = {}
    found: list[tuple[Asked, ...]] = []
    refused, most = 0, sweep.search.trials
    while len(found) - refused < most and (stored := decided.get(suggestion_path(entry, len(found)))) is not None:
        limits = {int(task): float(value) for task, value in stored.get("cutoffs", {}).items()}
        specs = [sweep.trial(entry, stored["point"], seed, "search") for seed in sweep.search.runs]
        if reason := stored.get("refused"):
            refused += 1
            found.append(tuple(Asked.refused(spec, reason) for spec in specs))
            continue
        # The first suggestion of a trial decides its cut-offs, as in the search itself.
        found.append(tuple(Asked.of(spec, recall, carried.setdefault(spec.hash, limits)) for spec in specs))
    return tuple(found)


def _laid_out(sweep: SweepSpec, entry: Entry, decided: Decisions, recall: Recall) -> tuple[tuple[Asked, ...], ...]:
    """The trials of each point of a table that is written down, by index."""
    assert sweep.table is not None
    found: list[tuple[Asked, ...]] = []
    for index in range(sweep.laid_out(entry)):
        stored = decided.get(suggestion_path(entry, index))
        if stored is None:
            break
        specs = [sweep.trial(entry, stored["point"], seed, "table") for seed in sweep.table.runs]
        reason = stored.get("refused", "")
        found.append(tuple(Asked.refused(spec, reason) if reason else Asked.of(spec, recall) for spec in specs))
    return tuple(found)


def outcome_of(trials: Sequence[Asked]) -> Outcome | None:
    """How a suggestion ended; None while one of its trials has to run."""
    verdicts = [asked.verdict for asked in trials if asked.verdict is not None]
    curves = [asked.record.curve_under(asked.cutoffs) if asked.record else {} for asked in trials]
    costs = [asked.record.costs if asked.record else {} for asked in trials]
    return Outcome.of(trials[0].spec.point, verdicts, curves, costs) if len(verdicts) == len(trials) else None


def _again(
    sweep: SweepSpec,
    entry: Entry,
    suggested: Sequence[Sequence[Asked]],
    outcomes: Sequence[Outcome | None],
    recall: Recall,
) -> dict[int, tuple[Asked, ...]] | None:
    """Finalists by their suggestion, with their trials on more seeds; None while the search has not ended."""
    assert sweep.search is not None
    points = [asked[0].spec.point for asked in suggested]
    refused = sum(asked[0].is_refused for asked in suggested)
    if not sweep.tried(entry, points, refused) or any(outcome is None for outcome in outcomes):
        return None
    seeds = sweep.search.finalists.runs if sweep.search.finalists else ()

    def trials(point: Mapping[str, Scalar]) -> tuple[Asked, ...]:
        return tuple(Asked.of(sweep.trial(entry, point, seed, "finalists"), recall) for seed in seeds)

    names = [asked[0].spec.hash for asked in suggested]
    return {index: trials(suggested[index][0].spec.point) for index in finalists(sweep.search, outcomes, names)}


def _final(sweep: SweepSpec, entry: Entry, point: Mapping[str, Scalar], recall: Recall) -> tuple[Asked, ...]:
    seeds = sweep.final.runs if sweep.final else ()
    return tuple(Asked.of(sweep.trial(entry, point, seed, "final"), recall) for seed in seeds)


def _choosing(sweep: SweepSpec, entry: Entry, decided: Decisions, recall: Recall) -> tuple[Asked, ...]:
    """The final trials of an entry that chooses as it goes; none before its candidates are written down."""
    stored = [decided.get(suggestion_path(entry, index)) for index in range(drawn(sweep, entry))]
    points = [found["point"] for found in stored if found is not None] if stored else grid(entry)
    seeds = sweep.final.runs if sweep.final and len(points) >= len(stored) else ()
    return tuple(Asked.of(choosing_trial(sweep, entry, points, seed), recall) for seed in seeds)


def _scored(search: Sequence[Asked], again: Sequence[Asked]) -> bool:
    return score([asked.verdict for asked in (*search, *again)]) is not None


def _all_ended(trials: Sequence[Asked]) -> bool:
    return all(asked.verdict is not None for asked in trials)
