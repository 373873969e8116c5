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


def draw(
    distributions: Mapping[str, space.Distribution], search: SearchConfig, seed: int, seen: Sequence[Outcome]
) -> dict[str, Scalar]:
    """The point that a sampler with this seed suggests, having seen exactly these outcomes.

    TPE is multivariate (learning rate and penalty interact), without the constant liar: suggestions of one generation
    differ by their seeds and know nothing of each other. Until ``startup`` trials gave a value, it draws at random.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
    if search.sampler == "tpe" and seen:
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=search.startup, multivariate=True, constant_liar=False
        )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    known = optuna_space(distributions)
    study.add_trials([frozen(outcome, known) for outcome in seen])
    params: dict[str, Any] = study.ask(known).params
    return params


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
