"""A search space and its outcomes in Optuna's classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from raycl.results.outcomes import Outcome
from raycl.spec import space
from raycl.spec.distribution import Conditional, Distribution

STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def optuna_space(distributions: Mapping[str, Distribution]) -> dict[str, BaseDistribution]:
    """A search space in Optuna's classes."""
    return {name: _optuna(distribution) for name, distribution in distributions.items()}


def _optuna(distribution: Distribution) -> BaseDistribution:
    match distribution:
        case space.Uniform(low=low, high=high):
            return FloatDistribution(low, high)
        case space.LogUniform(low=low, high=high):
            return FloatDistribution(low, high, log=True)
        case space.QUniform(low=low, high=high, q=q):
            return FloatDistribution(low, high, step=q)
        case space.RandInt(low=low, high=high):  # Ray Tune's upper bound is excluded, Optuna's is not
            return IntDistribution(low, high - 1)
        case space.LogRandInt(low=low, high=high):
            return IntDistribution(low, high - 1, log=True)
        case space.Choice(choices=choices):
            return CategoricalDistribution(choices)
        case Conditional(inner=inner):
            return _optuna(inner)
    raise TypeError(f"no Optuna distribution stands for {type(distribution).__name__}")


def frozen(outcome: Outcome, distributions: Mapping[str, BaseDistribution], costs: Sequence[str] = ()) -> FrozenTrial:
    """An outcome as Optuna keeps it: pruned trials with their intermediate values, failures without a value, and those
    that are over a limit as what breaks a constraint, by how much.

    Args:
        costs: objectives beside the value, which are minimised.
    """
    told = optuna.trial.create_trial(
        state=TrialState.PRUNED if outcome.excess > 0 else STATES[outcome.status],
        params=dict(outcome.point),
        distributions={name: found for name, found in distributions.items() if name in outcome.point},
        values=[outcome.value, *(outcome.costs[name] for name in costs)] if outcome.status == "finished" else None,
        intermediate_values=dict(outcome.curve),
    )
    if outcome.excess > 0:
        told.set_constraint("limits", outcome.excess)
    return told


def new_study(costs: Sequence[str] = (), **options: Any) -> optuna.Study:
    """A study that maximises a metric, and minimises costs beside it."""
    return optuna.create_study(directions=["maximize", *("minimize" for _ in costs)], **options)
