"""How one task is learned: the block ``training``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from raycl.spec.needs import Idle, Need
from raycl.spec.options import Count, Fraction, Later, NonNegative, Options, Positive, one_of
from raycl.spec.schedule import OneCycle, Plateau, Schedule, ScheduleConfig, ScheduleName, scheduled, shortest_schedule

ActiveLogits = Literal["auto", "own", "current", "seen", "all"]
OptimizerName = Literal["adam", "adamw", "sgd", "adagrad", "rmsprop"]

LENGTHS = ("epochs", "iterations", "budget")
"""Of ``training``: how long a task is learned."""
BUDGETS = ("gradient_examples", "forward_examples")
Beta = Annotated[float, Field(ge=0, lt=1)]


class BudgetConfig(Options):
    """What the updates of one task may cost, in rows through networks, as results count them.

    Training ends at the last update that fits, which is cut to what is left; passes before and after training, such as
    those for Fisher information or herding, are no part of it.
    """

    gradient_examples: Count | None = Field(None, description="backward passes of rows; or set forward_examples")
    forward_examples: Count | None = Field(None, description="rows through networks; or set gradient_examples")

    @model_validator(mode="after")
    def _one_unit(self) -> BudgetConfig:
        if sum(getattr(self, name) is not None for name in BUDGETS) != 1:
            raise ValueError(one_of(BUDGETS))
        return self

    @property
    def unit(self) -> str:
        return next(name for name in BUDGETS if getattr(self, name) is not None)

    @property
    def examples(self) -> int:
        """The budget, in its unit."""
        return int(getattr(self, self.unit))


class TrainingConfig(Options):
    """How one task is learned."""

    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "training.real_time",
            "batches come once, one a tick; set training.epochs: 1",
            lambda at: not at.training.real_time or at.training.epochs == 1,
        ),
        Need(
            "training.real_time",
            "batches pass by as they come, and this method learns a task in other ways than by one pass over them; "
            "leave it out, or use training.budget",
            lambda at: not at.training.real_time or getattr(at.strategy, "one_pass", True),
            bars=True,
        ),
        Need(
            "training.schedule",
            "each task goes through it once, and where stream.boundaries is 'hidden' nobody tells where one ends; "
            "leave schedule, warm_up and keep_best out",
            lambda at: not at.hidden or at.training.steady,
        ),
        Need(
            "training.warm_up",
            "one_cycle rises by itself; leave it out, or use another schedule",
            lambda at: not at.training.warm_up or not isinstance(at.training.scheduled, OneCycle),
        ),
        Need(
            "training.held_out",
            "keep_best and plateau: {watch: held_out} judge by rows that are not learned; set it, to 0.1 for example",
            lambda at: at.training.held_out > 0 or not at.training.judges_held_out,
        ),
        Need(
            "training.label_smoothing",
            "this method learns labels otherwise than by a softmax; leave it out",
            lambda at: not at.training.label_smoothing or getattr(at.strategy, "smooths_labels", True),
            bars=True,
        ),
        Need(
            "training.keep_best",
            "what this method keeps of a task follows from all of its updates; leave it out",
            lambda at: not at.training.keep_best or getattr(at.strategy, "keeps_best", True),
            bars=True,
        ),
    )
    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(
            ("training.momentum",),
            "only sgd and rmsprop have momentum",
            lambda at: at.training.optimizer not in ("sgd", "rmsprop"),
        ),
        Idle(("training.betas",), "only adam and adamw have betas", lambda at: "adam" not in at.training.optimizer),
        Idle(
            ("training.nesterov",),
            "only sgd with momentum looks ahead by it",
            lambda at: at.training.optimizer != "sgd" or not at.training.momentum,
        ),
        Idle(
            ("training.held_out",),
            "neither keep_best nor plateau: {watch: held_out} asks for it",
            lambda at: not at.training.judges_held_out,
        ),
        Idle(("training.clip_by",), "training.gradient_clip clips nothing", lambda at: not at.training.gradient_clip),
        Idle(
            ("training.reset_optimizer",),
            "where stream.boundaries is 'hidden' nobody tells when to reset it, and moments are kept",
            lambda at: at.hidden,
        ),
        Idle(
            ("training.active_logits",),
            "tasks of equal size that share their output units all have the same",
            lambda at: at.equal_units and not at.hidden,
        ),
    )

    acts_from: ClassVar[Mapping[str, int]] = {"training.reset_optimizer": 2}
    between_tasks: ClassVar[tuple[str, ...]] = tuple(
        f"training.{name}"
        for name in (
            *("learning_rate", "weight_decay", "batch_size", "epochs", "iterations", "gradient_clip"),
            *("warm_up", "label_smoothing", "nesterov"),
        )
    )

    optimizer: OptimizerName = Field(
        "adam", description="torch's optimiser of that name, with torch's defaults for what is not set here"
    )
    learning_rate: Positive = Field(
        1e-3, description="the optimiser's step size: in every update, or where a schedule is highest"
    )
    schedule: Annotated[ScheduleName | ScheduleConfig, AfterValidator(shortest_schedule), Later()] = Field(
        "constant", description="of the learning rate over the updates of a task: a word, or one with its options"
    )
    warm_up: Annotated[float, Field(ge=0, lt=1), Later()] = Field(
        0.0, description="share of a task's updates in which the learning rate rises evenly, before its schedule begins"
    )
    momentum: Fraction = Field(0.0, description="of sgd and rmsprop")
    nesterov: Annotated[bool, Later()] = Field(False, description="Nesterov's form of momentum, of sgd")
    betas: Annotated[tuple[Beta, Beta], Later()] = Field(
        (0.9, 0.999), description="of adam and adamw: how slowly the means of gradients and of their squares change"
    )
    weight_decay: NonNegative = Field(
        0.0,
        description="times a weight, added to its gradient; of adamw, taken off it times learning_rate",
    )
    batch_size: Count = Field(128, description="new examples per update")
    epochs: Count | None = Field(None, description="passes over the phase's source per task; or set iterations, budget")
    iterations: Count | None = Field(None, description="updates per task; or set epochs, budget")
    budget: Annotated[BudgetConfig | None, Later()] = Field(
        None, description="what the updates of a task may cost, so that methods compare at equal compute; or set epochs"
    )
    real_time: Annotated[bool, Later()] = Field(
        False,
        description="the stream does not wait: a method whose update costs C times naive's learns one batch in C "
        "(Ghunaim et al. 2023)",
    )
    reset_optimizer: bool = Field(True, description="a new optimiser for every task")
    active_logits: ActiveLogits = Field(
        "auto",
        description="units in the training softmax: the row's own task, the current task, tasks seen so far, or all; "
        "auto: own with a head per task, seen for class-incremental, all for a shared head",
    )
    gradient_clip: NonNegative = Field(0.0, description="largest norm of the gradient; 0 clips nothing")
    clip_by: Annotated[Literal["optimizer", "group"], Later()] = Field(
        "optimizer", description="whose gradient: of all that an optimiser steps, or of each group of parameters"
    )
    precision: Annotated[Literal["float32", "bf16"], Later()] = Field(
        "float32",
        description="of matrix products and convolutions in updates and predictions; bf16: bfloat16, by torch's "
        "autocast; weights, gradients, optimisers and whatever is kept are float32 in any case",
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1), Later()] = Field(
        0.0, description="share of a label that is spread evenly over the units that compete (Szegedy et al. 2016)"
    )
    held_out: Annotated[float, Field(ge=0, lt=1), Later()] = Field(
        0.0,
        description="share of each task's training rows, stratified by class, that are not learned, and judge while it "
        "is; beside stream.validation_fraction, which no training sees",
    )
    keep_best: Annotated[bool, Later()] = Field(
        False, description="a task ends with the weights of the pass that answered training.held_out best"
    )

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        if sum(getattr(self, name) is not None for name in LENGTHS) > 1:
            raise ValueError(one_of(LENGTHS))
        if all(getattr(self, name) is None for name in LENGTHS):
            object.__setattr__(self, "epochs", 1)
        return self

    @property
    def scheduled(self) -> Schedule | None:
        """The schedule with its options; None where the rate is constant."""
        return scheduled(self.schedule)

    @property
    def steady(self) -> bool:
        """Whether nothing depends on where in a task an update stands."""
        return self.schedule == "constant" and not self.warm_up and not self.keep_best

    @property
    def judges_held_out(self) -> bool:
        """Whether rows that are not learned judge while a task is learned."""
        plateau = self.scheduled
        return self.keep_best or (isinstance(plateau, Plateau) and plateau.watch == "held_out")
