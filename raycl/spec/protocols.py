"""How a sweep chooses hyperparameters: ``search.protocol``, a word or a mapping of one word to its options.

``end_of_training`` is decided by a search, before the final phase. The others of this file choose as they go: each
final trial chooses for itself, between two tasks, and there is no search phase.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raycl.spec.options import Count, Options, one_of

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


AsItGoes = CurrentTask | SeenTasks | StabilityDecay
"""Protocols by which a trial chooses between tasks."""
ProtocolName = Literal["end_of_training", "current_task", "seen_tasks", "stability_decay"]


class ProtocolConfig(Options):
    """A protocol with options of its own: ``{current_task: {retrain: true}}``."""

    current_task: CurrentTask | None = Field(None, description="judged by each task's validation data")
    seen_tasks: SeenTasks | None = Field(None, description="judged by the validation data of all tasks so far")
    stability_decay: StabilityDecay | None = Field(None, description="the framework of De Lange et al. 2021")

    @model_validator(mode="after")
    def _one_protocol(self) -> ProtocolConfig:
        if len(self._given()) != 1:
            raise ValueError(one_of(tuple(type(self).model_fields)))
        return self

    def _given(self) -> dict[str, Any]:
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}

    @property
    def name(self) -> str:
        (name,) = self._given()
        return name

    @property
    def as_it_goes(self) -> AsItGoes:
        """The options of the protocol."""
        (options,) = self._given().values()
        found: AsItGoes = options
        return found


def configured(protocol: ProtocolName | ProtocolConfig) -> ProtocolConfig | None:
    """A protocol that chooses as it goes, with its options, however it is written; None for one that searches first."""
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
