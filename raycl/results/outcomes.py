"""How trials and suggestions ended, as a search counts them: pure functions of verdicts and curves.

The driver decides by them what to run next, and tables by them whose figures to show, so both count alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from raycl.matrix import Verdict, cut_after
from raycl.spec.sweep_options import LimitsConfig
from raycl.spec.trial import Scalar, TrialSpec

ASHA = "stopped by ASHA"
UNDEFINED = "the metric is not defined after the last task"


@dataclass(frozen=True)
class Record:
    """A trial that has ended at least once.

    Attributes:
        curve: task -> the search metric after it; tasks that were not measured are absent.
        num_tasks: tasks that it learns.
        costs: what it has cost in the end, by the objective's name.
    """

    spec: TrialSpec
    verdict: Verdict
    curve: Mapping[int, float]
    num_tasks: int
    costs: Mapping[str, float] = field(default_factory=dict)

    def under(self, cutoffs: Mapping[int, float]) -> Verdict | None:
        """The verdict that these cut-offs imply; None where the trial has to go on.

        Two entries of a sweep may ask for the same trial with other cut-offs, in any order. Judged by rows and
        cut-offs alone, each gets the same answer whoever came first.
        """
        cut = cut_after(self.curve, cutoffs, self.num_tasks)
        if cut is not None:
            return Verdict("pruned", self.verdict.reason, self.curve[cut], cut)
        if self.verdict.status == "pruned":
            return self.verdict if self.verdict.reason == ASHA else None
        chosen_by = self.spec.score_on == "validation"  # on test data nothing is chosen: its other figures count
        if chosen_by and self.verdict.status == "finished" and self.num_tasks - 1 not in self.curve:
            return Verdict("failed", UNDEFINED, None, self.verdict.task)
        return Verdict(self.verdict.status, self.verdict.reason, self.curve.get(self.num_tasks - 1), self.verdict.task)

    def curve_under(self, cutoffs: Mapping[int, float]) -> Mapping[int, float]:
        """The curve up to the verdict that these cut-offs imply; empty where there is none."""
        verdict = self.under(cutoffs)
        if verdict is None:
            return {}
        last = verdict.task if verdict.status == "pruned" else self.num_tasks
        return {task: value for task, value in self.curve.items() if task <= last}


Recall = Callable[[TrialSpec], Record | None]
"""What is known of an ended trial; None while it has not ended."""


@dataclass(frozen=True)
class Outcome:
    """How one suggestion ended, as the sampler is told.

    Attributes:
        value: the search metric after the last task, the mean over the search seeds; None unless finished.
        curve: task -> the search metric after it, the mean over the seeds; tasks that were not measured are absent.
        reason: why it failed.
        costs: of a finished one, the means over the search seeds.
    """

    point: Mapping[str, Scalar]
    status: Literal["finished", "pruned", "failed"]
    value: float | None = None
    curve: Mapping[int, float] = field(default_factory=dict)
    reason: str = ""
    costs: Mapping[str, float] = field(default_factory=dict)

    @property
    def excess(self) -> float:
        """How far over a limit of the sweep it failed, as a share of it; 0 where it did not."""
        return LimitsConfig.excess(self.reason) if self.status == "failed" else 0.0

    @classmethod
    def of(
        cls,
        point: Mapping[str, Scalar],
        verdicts: Sequence[Verdict],
        curves: Sequence[Mapping[int, float]],
        costs: Sequence[Mapping[str, float]] = (),
    ) -> Outcome:
        """Of a suggestion whose trials, one per search seed, have all ended; one that failed fails it."""
        common = sorted(set(curves[0]).intersection(*curves[1:]))
        curve = {task: mean([curve[task] for curve in curves]) for task in common}
        failed = [verdict.reason for verdict in verdicts if verdict.status == "failed"]
        if failed:
            return cls(point, "failed", None, curve, failed[0])
        pruned = [verdict.task for verdict in verdicts if verdict.status == "pruned"]
        if pruned:
            return cls(point, "pruned", None, {task: value for task, value in curve.items() if task <= min(pruned)})
        values = [verdict.value for verdict in verdicts if verdict.value is not None]
        known = set.intersection(*(set(own) for own in costs)) if costs else set()
        spent = {name: mean([own[name] for own in costs]) for name in sorted(known)}
        return cls(point, "finished", mean(values), curve, costs=spent)


def ranked(outcomes: Sequence[Outcome | None], names: Sequence[Hashable]) -> list[int]:
    """Indices of the suggestions that finished, the best first; ties go to the lower index.

    Args:
        outcomes: None where a suggestion has not ended.
        names: of the points; equal points stand once.
    """
    values = {i: outcome.value for i, outcome in enumerate(outcomes) if outcome and outcome.value is not None}
    distinct: dict[Hashable, int] = {}
    for index in sorted(values, key=lambda index: (-values[index], index)):
        distinct.setdefault(names[index], index)
    return list(distinct.values())


def score(verdicts: Sequence[Verdict | None]) -> float | None:
    """The mean value of a finalist's trials on all validation seeds; None where one of them has not finished."""
    values = [v.value for v in verdicts if v is not None and v.status == "finished" and v.value is not None]
    return mean(values) if values and len(values) == len(verdicts) else None


def mean(values: Sequence[float]) -> float:
    """The mean, exact in its sum, so that it does not depend on the order."""
    return math.fsum(values) / len(values)
