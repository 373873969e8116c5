"""How a sweep chooses hyperparameters: ``search.protocol``, a word or a mapping of one word to its options.

``end_of_training``, ``first_tasks`` and ``transfer`` are decided by a search, before the final phase. The others choose
as they go: each final trial chooses for itself, between two tasks, and there is no search phase.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from raycl.spec.options import Count, Later, OneOf, Options

RATE = "training.learning_rate"
"""What the first phase of ``stability_decay`` has a grid of."""
DecayWord = Literal["times", "divided", "complement"]
"""How a value gives stability up by a factor f below 1: v f, v / f, or 1 - (1 - v) f."""


class CurrentTask(Options):
    """Greedy: at each task every candidate learns from the state of the one chosen before, and the best is kept, by the
    validation data of this task (Lee et al. 2024, arXiv 2404.06466, current-task selection)."""

    retrain: bool = Field(
        False, description="the chosen candidate learns the task anew, from the same state, on train and validation"
    )


class SeenTasks(Options):
    """The same, by the data of all tasks so far, as an average over tasks (Lee et al. 2024, seen-task selection)."""

    judge: Literal["validation", "memory"] = Field(
        "validation",
        description="validation rows of all tasks, which are kept for it; memory: those of the current task alone, and "
        "of each earlier one what the replay memory holds of it as the task begins",
    )


class StabilityDecay(Options):
    """De Lange et al., "A continual learning survey", TPAMI 2021 (arXiv 1909.08383), section 4.

    At each task first the most plastic form of the method (fine-tuning) with each learning rate of the grid; then the
    method with the best of them, whose stability is decayed until its accuracy on the task's validation data is at
    least ``1 - drop`` of that of fine-tuning.
    """

    drop: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.2, description="p: share of fine-tuning's accuracy on a new task that stability may cost"
    )
    decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="factor on a stability hyperparameter after a training that learned too little"
    )
    trainings: Count = Field(10, description="of a task with decaying stability, at the most; the last one is kept")


class FirstTasks(Options):
    """Candidates learn the first tasks of the sweep's own stream alone, with its heads and quotas, and are judged by
    the validation data of these (first-task selection of Lee et al. 2024; three of twenty tasks in Chaudhry et al.
    2019, arXiv 1812.00420)."""

    tasks: Count = Field(1, description="tasks that a search trial learns")
    disjoint: bool = Field(
        False, description="final trials learn the other tasks, with a fresh model: Chaudhry et al.'s cross-validation"
    )


class Transfer(Options):
    """Hyperparameters are searched on another stream of the same shape, and reported on the sweep's own (Cha and Cho
    2024, arXiv 2403.09066: disjoint halves of the classes)."""

    stream: dict[str, Any] = Field(
        min_length=1, description="what the stream of the search has otherwise: {dataset: ..., class_order: [...]}"
    )


AsItGoes = CurrentTask | SeenTasks | StabilityDecay
"""Protocols by which a trial chooses between tasks."""
ProtocolName = Literal["end_of_training", "current_task", "seen_tasks", "stability_decay"]
WORDS: tuple[ProtocolName, ...] = get_args(ProtocolName)


class ProtocolConfig(OneOf):
    """A protocol with options of its own: ``{current_task: {retrain: true}}``."""

    current_task: Annotated[CurrentTask | None, Later()] = Field(
        None, description="judged by each task's validation data"
    )
    seen_tasks: Annotated[SeenTasks | None, Later()] = Field(
        None, description="judged by the validation data of all tasks so far"
    )
    stability_decay: Annotated[StabilityDecay | None, Later()] = Field(
        None, description="the framework of De Lange et al. 2021"
    )
    first_tasks: Annotated[Count | FirstTasks | None, Later()] = Field(
        None, description="judged after so many tasks of the stream"
    )
    transfer: Annotated[Transfer | None, Later()] = Field(None, description="searched on another stream")

    @property
    def searches(self) -> bool:
        """Whether a search chooses before the final phase."""
        return self.first_tasks is not None or self.transfer is not None

    @property
    def as_it_goes(self) -> AsItGoes:
        """The options of a protocol by which a trial chooses between tasks."""
        found: AsItGoes = self.chosen
        return found

    @property
    def judged(self) -> FirstTasks | None:
        """What of its stream a search trial learns; None: all of it."""
        return FirstTasks(tasks=self.first_tasks) if isinstance(self.first_tasks, int) else self.first_tasks


def shortest(protocol: ProtocolName | ProtocolConfig) -> ProtocolName | ProtocolConfig:
    """The one form of a protocol: a word where options stand at their defaults, and a number for ``first_tasks``."""
    if isinstance(protocol, str):
        return protocol
    if isinstance(judged := protocol.first_tasks, FirstTasks) and judged == FirstTasks(tasks=judged.tasks):
        return ProtocolConfig(first_tasks=judged.tasks)
    return next((word for word in WORDS if configured(word) == protocol), protocol)


def configured(protocol: ProtocolName | ProtocolConfig) -> ProtocolConfig | None:
    """A protocol with its options, however it is written; None for ``end_of_training``, which has none."""
    if isinstance(protocol, ProtocolConfig):
        return protocol
    if protocol == "end_of_training":
        return None
    return ProtocolConfig.model_validate({protocol: {}})


class Decay(Options):
    """A stability hyperparameter.

    Attributes:
        option: dotted path, as in a method's block of a sweep file.
        by: how it gives stability up.
    """

    option: str
    by: DecayWord = "times"

    def apply(self, value: float, factor: float) -> float:
        """The value with less stability."""
        if self.by == "divided":
            return value / factor
        return 1 - (1 - value) * factor if self.by == "complement" else value * factor


class Choosing(Options):
    """What a trial chooses among as it goes, resolved.

    Attributes:
        protocol: with its options.
        candidates: the values of what is searched, by dotted path; of ``stability_decay`` the grid of learning rates.
        decays: stability hyperparameters, in the order in which they are decayed; they start from the trial's values.
        plastic: what stands in place of the trial's values while ``stability_decay`` looks for the most plastic form.
    """

    protocol: ProtocolConfig
    candidates: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    decays: tuple[Decay, ...] = ()
    plastic: dict[str, Any] = {}

    @property
    def varied(self) -> frozenset[str]:
        """Options that may differ from task to task."""
        return frozenset(path for values in self.candidates for path in values) | {own.option for own in self.decays}

    def trainings(self, num_tasks: int) -> tuple[int, int]:
        """Trainings of a task that one trial makes over the whole stream: at least, and at most."""
        each, rule = len(self.candidates), self.protocol.as_it_goes
        if isinstance(rule, StabilityDecay) and self.decays:
            return num_tasks * (each + 1), num_tasks * (each + rule.trainings)
        again = isinstance(rule, CurrentTask) and rule.retrain
        return (num_tasks * (each + again),) * 2
