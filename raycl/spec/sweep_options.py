"""The blocks of a sweep file around the methods: search, pruner, final, evaluation, limits, resources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, cast, get_args

from pydantic import AfterValidator, Field

from raycl.spec.needs import Idle, Need, SearchSetting
from raycl.spec.options import Bytes, Count, Fraction, Later, Options, Positive, Seed
from raycl.spec.protocols import FirstTasks, ProtocolConfig, ProtocolName, configured, shortest
from raycl.spec.seeds import AnySeeds, PhaseSeeds, RunSeeds, runs_of

SearchMetric = Literal[
    "average_accuracy", "average_incremental_accuracy", "pooled_accuracy", "pooled_average_incremental_accuracy"
]

CostObjective = Literal["state_bytes", "parameters", "gradient_examples", "forward_examples"]
"""What is minimised beside a metric: bytes kept after the last task, replay memory included; trainable numbers; rows
through backward and forward passes, over all tasks."""
DEFAULT_METRIC: SearchMetric = "average_accuracy"

DEFAULT_TOP = 3
"""Points of a Pareto set that go on, where the file names no finalists."""
Trials = Annotated[int, Field(ge=1, le=1_000_000)]
_DESIGN = "; a list, or seeds of each source of randomness"


def _objectives(given: tuple[str, ...]) -> tuple[str, ...]:
    metrics, costs = get_args(SearchMetric), get_args(CostObjective)
    if len(given) < 2 or given[0] not in metrics or not set(given[1:]) <= set(costs) or len(set(given)) < len(given):
        raise ValueError(
            f"must be a metric ({', '.join(metrics)}) and one or more costs ({', '.join(costs)}), each once"
        )
    return given


class SearchConfig(Options):
    """How the hyperparameters of each strategy are searched, on validation data only."""

    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "search.metric",
            "of several objectives nothing is pruned, and no trial chooses as it goes; name one metric",
            lambda at: at.search is None or not at.search.costs or (at.pruner is None and not at.as_it_goes),
        ),
        Need(
            "search.finalists.seeds",
            "must hold at least one seed; leave finalists out to name the winner without",
            lambda at: at.search is None or at.search.finalists is None or bool(at.search.finalists.seeds),
        ),
        Need(
            "search.protocol",
            "chooses in the trials of the final phase, and there is none; add final: {seeds: [...]}",
            lambda at: not at.as_it_goes or at.final is not None,
        ),
    )
    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(
            ("search",),
            "no value of any method is a distribution",
            lambda at: not at.tasks and at.final is not None and not at.as_it_goes,
        ),
        Idle(
            tuple(f"search.{name}" for name in ("generation", "startup", "metric", "sampler", "seeds", "finalists")),
            "under this protocol nothing is searched before the final phase",
            lambda at: at.as_it_goes,
        ),
        Idle(
            ("search.trials", "search.enqueue", "search.defaults", "search.seed"),
            "stability_decay takes its grid from training.learning_rate: {choice: [...]}",
            lambda at: at.decays,
        ),
        Idle(
            ("search.startup",),
            "no trial is left for the sampler to learn for: every suggestion is random; set it below search.trials",
            lambda at: at.search.startup > at.search.trials and not at.as_it_goes,
        ),
        Idle(
            ("search.generation",),
            "all trials are one generation; set it below search.trials",
            lambda at: at.search.generation > at.search.trials and not at.as_it_goes,
        ),
        Idle(
            ("search.startup",),
            "this sampler never learns from results; take tpe or gp",
            lambda at: not at.search.learns and not at.as_it_goes,
        ),
        Idle(
            ("search.finalists",),
            "a single finalist wins whatever its other seeds say; set top above 1",
            lambda at: (
                at.search.finalists is not None
                and min(at.search.finalists.top, at.search.trials) == 1
                and not at.as_it_goes
            ),
        ),
        Idle(
            ("search.finalists.top",),
            "every trial is a finalist; set it below search.trials",
            lambda at: at.search.finalists is not None and at.search.finalists.top > at.search.trials > 1,
        ),
    )

    class Finalists(Options):
        """The best points are run again on more validation seeds before a winner is named."""

        top: Trials = Field(3, description="so many of each method's best points")
        seeds: AnySeeds = Field((1, 2), description=f"of the runs of each of them, beside those of the search{_DESIGN}")

        @property
        def runs(self) -> tuple[RunSeeds, ...]:
            """The seeds of each run."""
            return runs_of(self.seeds)

    protocol: Annotated[ProtocolName | ProtocolConfig, AfterValidator(shortest)] = Field(
        "end_of_training",
        description="how hyperparameters are chosen: by a search that scores whole streams, or by each final trial as "
        "it goes; a word, or {current_task: {retrain: true}}",
    )
    trials: Trials = Field(10, description="per strategy and variant")
    generation: Trials = Field(5, description="suggestions made at once, from all earlier generations")
    startup: Trials = Field(5, description="random suggestions before the sampler learns from results")
    metric: (
        SearchMetric
        | Annotated[
            tuple[SearchMetric | CostObjective, ...], Field(min_length=2, max_length=5), AfterValidator(_objectives)
        ]
    ) = Field(
        DEFAULT_METRIC,
        description="what is maximised: a mean over tasks, or over all their images (pooled), after the last task, or "
        "its mean over all steps (incremental); or a list of it and of costs that are minimised: [average_accuracy, "
        "state_bytes] finds a Pareto set",
    )
    mode: Literal["max"] = Field("max", description="the largest metric wins")
    sampler: Literal["tpe", "gp", "random", "qmc", "grid"] = Field(
        "tpe",
        description="tpe, gp: from the results of earlier generations, Optuna's TPE or its Gaussian process; random, "
        "qmc (scrambled Sobol points), grid (every point of choices and steps): from no results",
    )
    defaults: Annotated[bool, Later()] = Field(
        True, description="the method's own values are tried first, where they lie inside its space"
    )
    enqueue: Annotated[tuple[dict[str, Any], ...], Later()] = Field(
        (),
        max_length=1000,
        description="points tried before others: searched options by dotted path, of every method that searches them, "
        "or of the one named by `strategy`; what a point leaves open stands at the method's default, or in the middle",
    )
    inert: Annotated[Literal["refuse", "allow"], Later()] = Field(
        "refuse",
        description="searched options that cannot act before first_tasks judges; where they may be searched, their "
        "points tie, and the first one wins",
    )
    seed: Seed = Field(0, description="of the sampler")
    seeds: PhaseSeeds = Field((0,), description=f"of the runs of every search trial; the mean counts{_DESIGN}")
    finalists: Finalists | None = None
    max_concurrent: Count | None = Field(None, description="default: what the resources allow")

    @property
    def maximised(self) -> SearchMetric:
        """The metric, the first of several objectives."""
        return self.metric if isinstance(self.metric, str) else cast(SearchMetric, self.metric[0])

    @property
    def costs(self) -> tuple[str, ...]:
        """What is minimised beside it."""
        return () if isinstance(self.metric, str) else self.metric[1:]

    @property
    def top(self) -> int:
        """So many points of a method go on from its search: one wins, of several objectives a Pareto set."""
        if self.finalists is not None:
            return self.finalists.top
        return DEFAULT_TOP if self.costs else 1

    @property
    def learns(self) -> bool:
        """Whether the sampler goes by the results of earlier generations."""
        return self.sampler in ("tpe", "gp")

    @property
    def runs(self) -> tuple[RunSeeds, ...]:
        """The seeds of each run of a suggestion."""
        return runs_of(self.seeds)

    @property
    def as_it_goes(self) -> ProtocolConfig | None:
        """The protocol by which final trials choose for themselves; None where a search chooses before."""
        rule = configured(self.protocol)
        return None if rule is None or rule.searches else rule

    @property
    def judged(self) -> FirstTasks | None:
        """The first tasks that search trials learn; None: all of them."""
        rule = configured(self.protocol)
        return None if rule is None else rule.judged

    @property
    def searched_on(self) -> Mapping[str, Any]:
        """What the stream of the search has otherwise than the sweep's own."""
        rule = configured(self.protocol)
        return {} if rule is None or rule.transfer is None else rule.transfer.stream


def _compares_with_none(setting: SearchSetting) -> bool:
    pruner = setting.pruner
    return pruner is not None and pruner.scheduler == "generations" and setting.seen < pruner.min_trials


class PrunerConfig(Options):
    """Stops search trials early, at task boundaries."""

    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(("pruner",), "under this search.protocol there are no search trials", lambda at: at.as_it_goes),
        Idle(
            ("pruner.quantile", "pruner.min_trials"),
            "pruner.scheduler: asha goes by rungs; set reduction_factor",
            lambda at: at.pruner.scheduler == "asha",
        ),
        Idle(
            ("pruner.reduction_factor",),
            "only pruner.scheduler: asha has rungs; set quantile",
            lambda at: at.pruner.scheduler == "generations",
        ),
        Idle(
            ("pruner",),
            "no trial is ever stopped: grace_tasks, 10 where it is not given, must lie below the tasks that a search "
            "trial learns",
            lambda at: 0 < at.tasks <= at.pruner.grace_tasks,
        ),
        Idle(
            ("pruner",),
            "no trial is ever stopped: lower search.generation or min_trials, which leave none to compare it with",
            _compares_with_none,
        ),
    )

    scheduler: Literal["generations", "asha"] = Field(
        "generations",
        description="generations: a trial is compared with all earlier generations, and a second run prunes the same; "
        "asha: with whatever has got as far by then, which depends on the order in which trials finish",
    )
    quantile: Fraction = Field(0.5, description="of generations: a trial below it at the same task is stopped")
    grace_tasks: Count = Field(10, description="tasks learned before a trial may be pruned; also ASHA's first rung")
    min_trials: Count = Field(3, description="of generations: earlier trials with a row at that task, at the least")
    reduction_factor: Annotated[int, Field(ge=2, le=1000)] = Field(
        3, description="of asha: 1 in so many trials goes on at each rung, and rungs lie so many times further apart"
    )


class FinalConfig(Options):
    """The winner of each strategy over fresh seeds, scored on test data once."""

    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "final.train_on",
            "under this search.protocol the validation rows choose, so they are not learned; use train, or "
            "search.protocol: {current_task: {retrain: true}}",
            lambda at: not at.as_it_goes or at.final is None or at.final.train_on == "train",
        ),
    )

    seeds: PhaseSeeds = Field((10, 11, 12), description=f"of the runs, one trial of each method for each{_DESIGN}")
    train_on: Literal["train", "train_and_validation"] = Field(
        "train", description="the rows that search trials trained on; or with those on which they were scored"
    )
    baseline: Annotated[str | None, Later()] = Field(
        None, description="the method that the table compares others with; default: the best on validation data"
    )
    keep_checkpoints: bool = Field(False, description="after a trial has finished too, as `raycl export` needs them")

    @property
    def runs(self) -> tuple[RunSeeds, ...]:
        """The seeds of each run."""
        return runs_of(self.seeds)


class TableConfig(Options):
    """In place of a search: one design over the space of each method, every point with every seed, measured on
    validation and on test data after every task. Nothing is selected."""

    points: Trials = Field(
        64, description="of each method, spread over its space (scrambled Sobol points); of a smaller space all of them"
    )
    seeds: PhaseSeeds = Field((0, 1, 2), description=f"of the runs of every point{_DESIGN}")
    seed: Seed = Field(0, description="of the design")

    @property
    def runs(self) -> tuple[RunSeeds, ...]:
        """The seeds of each run of a point."""
        return runs_of(self.seeds)

    @property
    def design(self) -> SearchConfig:
        """What draws the points."""
        return SearchConfig(trials=self.points, sampler="qmc", defaults=False, seed=self.seed, seeds=self.seeds)


_BROKEN = re.compile(r"limits\.\w+ is (?P<limit>[\d.e+-]+) \(got (?P<value>[\d.e+-]+)\)")


class LimitsConfig(Options):
    """What buys accuracy by size; a trial above a limit fails with a clear reason, before it is run where its size is
    known."""

    max_state_bytes: Bytes | None = Field(
        None, description="bytes that a method keeps between tasks, its replay memory included"
    )
    max_parameters: Bytes | None = Field(None, description="trainable numbers of a method, all its networks together")
    max_compression_ratio: Positive | None = Field(None, description="hypernetworks: trainable over target weights")

    def broken(self, sizes: Mapping[str, float | None]) -> str:
        """The first limit that sizes, by its name, are over: ``limits.max_parameters is 10 (got 12)``; else empty."""
        for name, value in sizes.items():
            limit = getattr(self, name)
            if limit is not None and value is not None and value > limit:
                return f"limits.{name} is {limit} (got {value})"
        return ""

    @staticmethod
    def excess(reason: str) -> float:
        """How far over its limit a failure is that tells of :meth:`broken`, as a share of it; 0 where it does not."""
        found = _BROKEN.search(reason)
        return float(found["value"]) / float(found["limit"]) - 1 if found else 0.0


def _whole_above_one(gpus: float) -> float:
    if (gpus > 1 and gpus != int(gpus)) or 0 < gpus < 1e-4:
        raise ValueError("must be a share of one GPU, from 0.0001 to 1, or a whole number of them, as Ray has it")
    return gpus


class ResourcesConfig(Options):
    """What one trial asks of the cluster."""

    cpus: Annotated[int, Field(ge=1, le=4096)] = Field(1, description="CPU slots; also the trial's threads")
    gpus: Annotated[
        float,
        Field(ge=0, le=1024, json_schema_extra={"anyOf": [{"minimum": 1e-4, "maximum": 1}, {"multipleOf": 1}]}),
        AfterValidator(_whole_above_one),
    ] = Field(0.0, description="a share of one, or a whole number")
