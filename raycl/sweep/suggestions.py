"""Which point comes next, and the cut-offs of pruning, as functions of what a suggestion may see."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import optuna

from raycl.results.outcomes import Outcome
from raycl.results.trackers.optuna_terms import frozen, new_study, optuna_space
from raycl.spec.points import Point, Space, active, every_point, point_at, points_in
from raycl.spec.sweep_options import PrunerConfig, SearchConfig
from raycl.sweep.designs import latin_hypercube, sobol_point

MOST_DRAWS = 20
"""Draws of a sampler for one suggestion, of points that are known: then one of those that are left is taken."""
MOST_LISTED = 100_000
"""Points of a space that are listed to find those that are left."""

How = Literal["defaults", "enqueued", "enumerated", "start", "sampler", "left"]


@dataclass(frozen=True)
class Suggestion:
    """A point, and where it comes from.

    Attributes:
        how: ``defaults``: the method's own values; ``enqueued``: named in the file; ``enumerated``: of a space that is
            tried whole; ``start``: before there are results to learn from; ``sampler``: as the sampler suggests;
            ``left``: the sampler kept suggesting known points, and this one was left.
    """

    point: Point
    how: How


def sampler_seed(search: SearchConfig, entry: str, index: int, draw: int = 0) -> int:
    """A 31-bit seed of suggestion ``index`` of an entry, for its first draw or a later one."""
    again = f"/{draw}" if draw else ""
    digest = hashlib.sha256(f"{search.seed}/{entry}/{index}{again}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class Suggester:
    """Draws the points of one entry, one after another; no point twice while others are left.

    First come named points (``first``), then a start that sees nothing: of ``tpe`` and ``gp`` a Latin hypercube, so
    that no value of a choice is left to luck. From then on the sampler sees the outcomes of earlier generations, and
    the points of its own generation as running: TPE takes these for bad ones (the constant liar of Ginsbourger et al.
    2010), a Gaussian process has them in its expected improvement. So suggestions of one generation keep apart, and
    still depend on nothing but what was written down before.

    Optuna holds one study, which is told each outcome once, and not again for every suggestion that sees it.

    Args:
        key: of the entry; with the search's seed it decides every draw.
        first: points to try before all others.
    """

    def __init__(
        self, space: Space, search: SearchConfig, key: str = "", first: Sequence[tuple[Point, How]] = ()
    ) -> None:
        self._distributions = space
        self._space = optuna_space(space)
        self._search = search
        self._key = key
        named: dict[Hashable, tuple[Point, How]] = {}
        for point, how in first:
            named.setdefault(_name(point), (point, how))
        self._first = list(named.values())
        self._study: optuna.Study | None = None
        self._told = 0
        self._running: list[optuna.Trial] = []

    def draw(self, index: int, seen: Sequence[Outcome] = (), earlier: Sequence[Mapping[str, Any]] = ()) -> Suggestion:
        """Suggestion ``index``.

        Args:
            seen: how the first suggestions ended, as many as this one may know of; begins with what was shown before.
            earlier: the points of all suggestions before this one. Those beyond ``seen`` are running.
        """
        known = {_name(point) for point in earlier}
        for point, how in self._first:
            if _name(point) not in known:
                return Suggestion(point, how)
        count = points_in(self._distributions)
        if count is not None and (count <= self._search.trials or self._search.sampler == "grid"):
            left = (point for point in every_point(self._distributions) if _name(point) not in known)
            return Suggestion(next(left, dict(earlier[0]) if earlier else {}), "enumerated")
        for number in range(MOST_DRAWS):
            drawn = self._drawn(index, number, seen, earlier)
            if _name(drawn.point) not in known:
                return drawn
        unseen = self._unseen(count, known, sampler_seed(self._search, self._key, index, MOST_DRAWS))
        return drawn if unseen is None else Suggestion(unseen, "left")

    def record(self, index: int, drawn: Suggestion) -> dict[str, Any]:
        """What is written down of suggestion ``index``, whatever it has seen."""
        return {
            "index": index,
            "point": drawn.point,
            "how": drawn.how,
            "sampler": self._search.sampler,
            "sampler_seed": sampler_seed(self._search, self._key, index),
            "optuna": optuna.__version__,
        }

    def _unseen(self, count: int | None, known: Collection[Hashable], seed: int) -> Point | None:
        """A point by lot that is not known; None where none is left.

        Args:
            count: of all points; where they are too many to be listed, the lot falls on the whole space.
        """
        space, chosen = self._distributions, np.random.default_rng(seed)
        if count is None or count > MOST_LISTED:
            drawn = (point_at(space, chosen.random(len(space)).tolist()) for _ in range(MOST_DRAWS))
            return next((point for point in drawn if _name(point) not in known), None)
        left = [point for point in every_point(space) if _name(point) not in known]
        return left[chosen.integers(len(left))] if left else None

    def _drawn(
        self, index: int, number: int, seen: Sequence[Outcome], earlier: Sequence[Mapping[str, Any]]
    ) -> Suggestion:
        """What the sampler suggests, at its ``number``-th try."""
        search, row = self._search, index - len(self._first)
        seed = sampler_seed(search, self._key, index, number)
        if search.sampler == "qmc":
            scramble = sampler_seed(search, self._key, 0)
            return Suggestion(sobol_point(self._distributions, row + number, scramble), "sampler")
        start = min(search.startup, search.trials) - len(self._first)
        if search.learns and not seen and number == 0 and row < start:
            spread = latin_hypercube(self._distributions, start, sampler_seed(search, self._key, 0))
            return Suggestion(spread[row], "start")
        study = self._shown(seen, earlier if search.learns and seen else ())
        study.sampler = self._sampler(seed, bool(seen))
        asked = study.ask(self._space)
        study.tell(asked, state=optuna.trial.TrialState.FAIL)  # of no account to any later draw
        point = active(self._distributions, asked.params)
        return Suggestion(point, "sampler" if seen or not search.learns else "start")

    def _sampler(self, seed: int, learns: bool) -> optuna.samplers.BaseSampler:
        if self._search.sampler == "random" or not learns:
            return optuna.samplers.RandomSampler(seed=seed)
        startup = self._search.startup
        if self._search.sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)

    def _shown(self, seen: Sequence[Outcome], earlier: Sequence[Mapping[str, Any]]) -> optuna.Study:
        """A study that has been told these outcomes, and where the points beyond them run."""
        if self._study is None or len(seen) < self._told:
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            self._study, self._told, self._running = new_study(self._search.costs), 0, []
        if len(seen) > self._told:
            self._end_running(self._study)
            self._study.add_trials([frozen(outcome, self._space, self._search.costs) for outcome in seen[self._told :]])
            self._told = len(seen)
        if len(earlier) - len(seen) < len(self._running):
            self._end_running(self._study)
        self._study.sampler = optuna.samplers.RandomSampler(seed=0)  # asked for nothing: the points are given
        for point in earlier[len(seen) + len(self._running) :]:
            self._study.enqueue_trial(dict(point))
            self._running.append(self._study.ask(self._space))
        return self._study

    def _end_running(self, study: optuna.Study) -> None:
        for trial in self._running:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        self._running = []


def _name(point: Mapping[str, Any]) -> tuple[tuple[str, str, Any], ...]:
    """What makes a point equal to another one: 1, 1.0 and true are three values of a choice."""
    return tuple((path, type(value).__name__, value) for path, value in sorted(point.items()))


def cutoffs(pruner: PrunerConfig, curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Task -> least metric to go on with, from the curves of the trials that the sampler saw.

    The cut-off is a value that occurred (the inverted distribution function), so ties survive exactly.
    """
    tasks = sorted({task for curve in curves for task in curve})
    chosen = {}
    for task in tasks:
        values = [curve[task] for curve in curves if task in curve]
        if task + 1 >= pruner.grace_tasks and len(values) >= pruner.min_trials:
            chosen[task] = float(np.quantile(values, pruner.quantile, method="inverted_cdf"))
    return chosen
