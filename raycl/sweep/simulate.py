"""What a search would have chosen, and how that would have scored: answered from a table of everything.

A simulated search is the search itself (:class:`raycl.sweep.plan.SearchPlan`): its generations, its start, its sampler
and its cut-offs, over trials that have all ended before. Each suggestion is moved to the nearest point of the table
that it has not used. So on a table that holds every point of a space, a simulated search equals the one that trains.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from raycl.errors import Problem, SpecError, UnknownName, nearest
from raycl.results.landscapes import Landscape, Landscapes, read_table
from raycl.results.outcomes import Outcome, ranked
from raycl.results.reading import Folder
from raycl.results.statistics import Interval
from raycl.spec.acting import inert
from raycl.spec.options import Count, Options, Seed
from raycl.spec.points import Point
from raycl.spec.rules import BrokenRules, validate
from raycl.spec.seeds import SEED_SOURCES, RunSeeds, SeedDesign
from raycl.spec.sweep import SweepSpec
from raycl.spec.sweep_options import DEFAULT_METRIC, PrunerConfig, SearchConfig, SearchMetric
from raycl.sweep.job import verdict_of
from raycl.sweep.over_table import Answers, NearestSearch

CHOSEN = pa.schema(
    [
        pa.field("strategy", pa.string(), nullable=False),
        pa.field("repeat", pa.int64(), nullable=False),
        pa.field("search_seeds", pa.list_(pa.string()), nullable=False),
        pa.field("scored_seeds", pa.list_(pa.string()), nullable=False),
        pa.field("point", pa.string()),
        pa.field("suggestion", pa.int64()),
        *(pa.field(name, pa.float64()) for name in ("validation", "test", "best", "regret")),
        *(pa.field(name, pa.int64()) for name in ("tied", "trials", "pruned", "failed", "task_trainings")),
        pa.field("inert", pa.list_(pa.string()), nullable=False),
    ]
)
"""A row for each simulated search: ``point`` as JSON, and the number of the ``suggestion`` that won; its value on
``validation`` data of the search's seeds; on ``test`` data of the others its metric after the whole stream, that of
the ``best`` point of the table, and the ``regret``, what lies between them. ``tied``: other suggestions of the same
value, of which the first wins. ``task_trainings``: of the search, with trials that were pruned or failed. ``inert``:
options that cannot act in the tasks by which the protocol judges."""


SUMMARY = pa.schema(
    [
        pa.field("strategy", pa.string(), nullable=False),
        pa.field("repeats", pa.int64(), nullable=False),
        *(
            pa.field(name + part, pa.float64())
            for name in ("validation", "test", "regret", "task_trainings")
            for part in ("", "_half_width")
        ),
        pa.field("tied", pa.float64()),
        pa.field("unanswered", pa.int64(), nullable=False),
        pa.field("inert", pa.list_(pa.string()), nullable=False),
    ]
)
"""A row for each method: means over repeats with half the width of their 95 % t-interval, null for a single one. It
says how far other seeds of the searches would move the mean, over these points and seeds of the table. ``tied``: share
of repeats in which the winner's value stood more than once; ``unanswered``: repeats without a score."""


class SimulatedSearch(Options):
    """What is simulated.

    Attributes:
        first_tasks: judged after so many tasks, at which a trial stops; None: after the whole stream.
        budget: trainings of a task that a search may spend, in place of a number of trials.
        search_seeds: labels of the table's seeds whose mean the search sees; empty: one in each repeat, by turns.
    """

    first_tasks: Count | None = None
    sampler: Literal["tpe", "gp", "random", "qmc"] = "tpe"
    trials: Count = 20
    generation: Count = 5
    startup: Count = 5
    metric: SearchMetric = DEFAULT_METRIC
    budget: Count | None = None
    pruner: PrunerConfig | None = None
    repeats: Annotated[int, Field(ge=1, le=100_000)] = 100
    seed: Seed = 0
    search_seeds: tuple[str, ...] = ()


def simulate(
    table: Folder | Landscapes,
    *,
    protocol: str = "end_of_training",
    sampler: str = "tpe",
    trials: int = 20,
    generation: int = 5,
    startup: int = 5,
    metric: str = DEFAULT_METRIC,
    budget: int | None = None,
    pruner: Mapping[str, Any] | None = None,
    repeats: int = 100,
    seed: int = 0,
    search_seeds: Sequence[int | str] = (),
    strategy: str | None = None,
) -> pa.Table:
    """Repeat a search on a table, without training.

    A repeat has a sampler's seed of its own. It sees the validation data of one seed of the table, by turns, or the
    mean over ``search_seeds``; what it chooses is scored on test data of the other seeds.

    Args:
        table: of :func:`raycl.results.landscapes.read_table`, or where one lies: a results folder, or a pack.
        protocol: ``end_of_training``, or ``first_tasks=1``: by the metric after the first task, at which trials stop.
        sampler, trials, generation, startup: as in the block ``search``; at most the points that a method has.
        budget: trainings of a task that a search may spend, in place of ``trials``.
        pruner: as the block ``pruner``.
        repeats: searches of each method.
        seed: of the first repeat's sampler; the next one's is one more.
        search_seeds: labels of seeds of the table.
        strategy: one method, by its key; default: all.

    Returns:
        :data:`CHOSEN`, a row for each method and repeat.

    Raises:
        SpecError: there is no such search.
        UnknownName: the table has no such method.
        StoreError: there is no table.
    """
    asked: dict[str, Any] = {
        "first_tasks": _first_tasks(protocol),
        "sampler": sampler,
        "trials": trials,
        "generation": generation,
    }
    asked |= {"startup": startup, "metric": metric, "budget": budget, "repeats": repeats, "seed": seed}
    asked |= {"search_seeds": list(map(str, search_seeds)), "pruner": None if pruner is None else dict(pruner)}
    try:
        search = validate(SimulatedSearch, asked)
    except BrokenRules as error:
        raise SpecError([Problem(".".join(map(str, one.path)), one.rule, one.value) for one in error.broken]) from error
    known = table if isinstance(table, Landscapes) else read_table(table)
    if strategy is not None and strategy not in known.methods:
        told = f"unknown method {strategy!r}{nearest(strategy, known.methods)} (known: {', '.join(known.methods)})"
        raise UnknownName(f"{known.sweep.name}: {told}")
    _refuse(search, known)
    methods = [one for key, one in known.methods.items() if strategy in (None, key) and one.points]
    rows = [row for method in methods for row in _simulated(known, method, search)]
    return pa.Table.from_pylist(rows, schema=CHOSEN)


def _first_tasks(protocol: str) -> int | None:
    name, _, count = protocol.partition("=")
    if protocol == "end_of_training":
        return None
    if name != "first_tasks" or not count.isdigit():
        raise SpecError([Problem("protocol", "must be end_of_training, or first_tasks=1", protocol)])
    return int(count)


def _refuse(search: SimulatedSearch, known: Landscapes) -> None:
    """What a table cannot answer."""
    problems = []
    unknown = [label for label in search.search_seeds if label not in known.seeds]
    if unknown or len(known.seeds) <= max(1, len(set(search.search_seeds))):
        rule = f"must leave a seed of the table, {', '.join(known.seeds)}, on which no search was made, to score by"
        problems.append(Problem("search_seeds", rule, ", ".join(unknown or search.search_seeds or known.seeds)))
    tasks = min((one.num_tasks for one in known.methods.values() if one.points), default=0)
    judged = search.first_tasks or tasks
    if judged > tasks:
        problems.append(Problem("protocol", f"the stream has {tasks} tasks", f"first_tasks={judged}"))
    if search.pruner is not None and search.pruner.scheduler == "asha":
        rule = "depends on which trials run at the same time, and a table does not say; take generations"
        problems.append(Problem("pruner.scheduler", rule, "asha"))
    elif search.pruner is not None and search.pruner.grace_tasks >= judged:
        rule = f"no trial is ever stopped: must lie below the tasks of a trial, {judged}"
        problems.append(Problem("pruner.grace_tasks", rule, str(search.pruner.grace_tasks)))
    if problems:
        raise SpecError(problems)


def _simulated(known: Landscapes, method: Landscape, search: SimulatedSearch) -> list[dict[str, Any]]:
    """All repeats of one method."""
    runs = {run.label: run for run in known.sweep.table.runs} if known.sweep.table else {}
    judged = search.first_tasks or method.num_tasks
    answers = {
        labels: Answers(method, judged, search.metric)
        for labels in ([search.search_seeds] if search.search_seeds else [(label,) for label in runs])
    }
    dead: list[str] = []
    if search.first_tasks is not None:
        dead = inert(known.sweep.resolved(method.entry, method.entry.middle), method.entry.space, judged)
    rows = []
    for repeat in range(search.repeats):
        labels = list(answers)[repeat % len(answers)]
        sweep = _sweep(known.sweep, method, search, [runs[label] for label in labels], search.seed + repeat)
        found = _found(sweep, method, answers[labels], search.budget)
        scored = [label for label in runs if label not in labels]
        head = {"strategy": method.entry.key, "repeat": repeat, "search_seeds": labels, "scored_seeds": scored}
        rows.append({**head, **found.told, **_scores(method, found, scored, search.metric), "inert": dead})
    return rows


def _sweep(
    table: SweepSpec, method: Landscape, search: SimulatedSearch, runs: Sequence[RunSeeds], seed: int
) -> SweepSpec:
    """The table's sweep with a search in its place."""
    lists = {source: [getattr(run, source) for run in runs] for source in SEED_SOURCES}
    points = len(method.points)
    config = SearchConfig(
        trials=points if search.budget else min(search.trials, points),
        generation=search.generation,
        startup=search.startup,
        metric=search.metric,
        sampler=search.sampler,
        seed=seed,
        seeds=validate(SeedDesign, lists),
    )
    return replace(table, table=None, search=config, pruner=search.pruner)


@dataclass(frozen=True)
class _Found:
    """How a simulated search ended.

    Attributes:
        suggestion: the winner; None where no suggestion finished.
        cost: trainings of a task, by suggestion.
    """

    outcomes: Sequence[Outcome]
    cost: Sequence[int]
    suggestion: int | None
    point: Point | None

    @property
    def told(self) -> dict[str, Any]:
        won = None if self.suggestion is None else self.outcomes[self.suggestion]
        ended = [outcome.status for outcome in self.outcomes]
        equal = [outcome for outcome in self.outcomes if won is not None and outcome.value == won.value]
        return {
            "point": None if self.point is None else json.dumps(self.point),
            "suggestion": self.suggestion,
            "validation": None if won is None else won.value,
            "tied": max(0, len(equal) - 1),
            "trials": len(ended),
            **{status: ended.count(status) for status in ("pruned", "failed")},
            "task_trainings": sum(self.cost),
        }


def _found(sweep: SweepSpec, method: Landscape, answers: Answers, budget: int | None) -> _Found:
    """Run a search over what is known already, as far as the budget goes."""
    if not method.entry.space:
        return _Found([], [], None, {})
    plan = NearestSearch(sweep, method, answers)
    plan.wanted()  # every trial has ended before: it goes on to its end
    jobs = [[verdict_of(answers, job) for job in trials] for trials in plan.trials]
    cost = [sum(verdict.task + 1 for verdict in verdicts if verdict is not None) for verdicts in jobs]
    if budget is not None:
        cost = [own for own, spent in zip(cost, np.cumsum(cost), strict=True) if spent <= budget]
    outcomes = plan.outcomes[: len(cost)]
    best = next(iter(ranked(outcomes, range(len(outcomes)))), None)
    return _Found(outcomes, cost, best, None if best is None else dict(outcomes[best].point))


def _scores(method: Landscape, found: _Found, seeds: Sequence[str], metric: str) -> dict[str, float | None]:
    """What was chosen, and the best that could have been, on test data."""
    if found.point is None:
        return {}
    every = [method.tested(index, seeds, metric) for index in range(len(method.points))]
    test, best = every[method.index(found.point)], max((value for value in every if value is not None), default=None)
    return {"test": test, "best": best, "regret": None if test is None or best is None else best - test}


def summary(chosen: pa.Table) -> pa.Table:
    """Means over the repeats of each method, as :data:`SUMMARY` has them.

    Args:
        chosen: of :func:`simulate`.
    """
    rows = chosen.to_pylist()
    found = []
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        own = [row for row in rows if row["strategy"] == strategy]
        told: dict[str, Any] = {"strategy": strategy, "repeats": len(own), "inert": own[0]["inert"]}
        for name in ("validation", "test", "regret", "task_trainings"):
            told[name], told[f"{name}_half_width"] = _interval([row[name] for row in own if row[name] is not None])
        told["tied"] = float(np.mean([row["tied"] > 0 for row in own]))
        told["unanswered"] = sum(row["test"] is None for row in own)
        found.append(told)
    return pa.Table.from_pylist(found, schema=SUMMARY)


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean, and half the width of its 95 % t-interval; null where that is not defined."""
    found = Interval.of(values)
    if found is None:
        return None, None
    return found.mean, None if math.isnan(found.margin) else found.margin
