"""Which point comes next: Optuna's samplers and the cut-offs of pruning, as functions of what a suggestion may see."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna

from raycl.results.outcomes import Outcome
from raycl.results.trackers.optuna_terms import frozen, optuna_space
from raycl.spec import space
from raycl.spec.sweep_options import PrunerConfig, SearchConfig
from raycl.spec.trial import Scalar


def sampler_seed(search: SearchConfig, entry: str, index: int) -> int:
    """A 31-bit seed of suggestion ``index`` of an entry."""
    digest = hashlib.sha256(f"{search.seed}/{entry}/{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class Suggester:
    """Draws the points of one entry; each suggestion sees an ever longer beginning of the same outcomes.

    So an outcome is handed to Optuna once, and not again for every suggestion that sees it.
    """

    def __init__(self, distributions: Mapping[str, space.Distribution], search: SearchConfig) -> None:
        self._space = optuna_space(distributions)
        self._search = search
        self._study: optuna.Study | None = None
        self._told = 0

    def draw(self, seed: int, seen: Sequence[Outcome]) -> dict[str, Scalar]:
        """The point that a sampler with this seed suggests, having seen exactly these outcomes.

        TPE is multivariate (learning rate and penalty interact), without the constant liar: suggestions of one
        generation differ by their seeds and know nothing of each other. Until ``startup`` trials gave a value, it draws
        at random.

        Args:
            seen: begins with what this object was shown before.
        """
        study = self._shown(seen)
        study.sampler = self._sampler(seed, bool(seen))
        asked = study.ask(self._space)
        params: dict[str, Any] = asked.params
        study.tell(asked, state=optuna.trial.TrialState.FAIL)  # of no account to any later draw
        return params

    def _sampler(self, seed: int, learns: bool) -> optuna.samplers.BaseSampler:
        if self._search.sampler == "random" or not learns:
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=self._search.startup, multivariate=True, constant_liar=False
        )

    def _shown(self, seen: Sequence[Outcome]) -> optuna.Study:
        """A study that has been told these outcomes."""
        if self._study is None or len(seen) < self._told:
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            self._study, self._told = optuna.create_study(direction="maximize"), 0
        self._study.add_trials([frozen(outcome, self._space) for outcome in seen[self._told :]])
        self._told = len(seen)
        return self._study


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
