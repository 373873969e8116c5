"""How the learning rate changes while a task is learned: ``training.schedule``, a word or a mapping of one word to its
options.

Every phase of a task goes through the schedule once. Where something happens is told as a share of the phase's updates,
so that a file holds for any number of passes: the drops of a paper after 80 and 120 of 200 passes are ``at: [0.4,
0.6]``. Rates are factors on ``training.learning_rate``, and on those of parameter groups with rates of their own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from raycl.spec.options import CountFromZero, Fraction, OneOf, Options

Factor = Annotated[float, Field(gt=0, le=1)]
BelowOne = Annotated[float, Field(gt=0, lt=1)]
ScheduleName = Literal["constant", "cosine", "one_cycle", "plateau"]


class Steps(Options):
    """Drops at equal distances (torch's ``StepLR``)."""

    every: Factor = Field(description="share of the updates between two drops")
    factor: Factor = Field(0.1, description="of each drop")


class Multistep(Options):
    """Drops at given places (torch's ``MultiStepLR``)."""

    at: Annotated[tuple[BelowOne, ...], Field(min_length=1, max_length=64)] = Field(
        description="shares of the updates after which the rate drops, in order"
    )
    factor: Factor | Annotated[tuple[Factor, ...], Field(min_length=1, max_length=64)] = Field(
        0.1, description="of each drop, or a list with one for every drop"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Multistep:
        if any(after <= before for before, after in pairwise(self.at)):
            raise ValueError("at must name each drop once, in order")
        if isinstance(self.factor, tuple) and len(self.factor) != len(self.at):
            raise ValueError("factor must be a number, or a list of as many as at has")
        if isinstance(self.factor, tuple) and len(set(self.factor)) == 1:
            object.__setattr__(self, "factor", self.factor[0])
        return self


class Cosine(Options):
    """Half a cosine from the full rate down (torch's ``CosineAnnealingLR``; Loshchilov and Hutter 2017, eq. 5)."""

    floor: Fraction = Field(0.0, description="factor at the end")


class OneCycle(Options):
    """Up to the full rate and down to almost nothing, by cosines (torch's ``OneCycleLR``; Smith and Topin 2019).

    Departure: momentum stays as it is.
    """

    peak_at: BelowOne = Field(0.3, description="share of the updates after which the full rate is reached")
    start: Factor = Field(0.04, description="factor in the first update")
    end: Fraction = Field(4e-6, description="factor in the last update")


class Plateau(Options):
    """Drops when passes over the data bring nothing more (torch's ``ReduceLROnPlateau``, with relative thresholds)."""

    watch: Literal["loss", "held_out"] = Field(
        "loss", description="the mean training loss of a pass, or the accuracy on training.held_out after it"
    )
    factor: Factor = Field(0.1, description="of each drop")
    patience: CountFromZero = Field(10, description="passes without a better value before the rate drops")
    threshold: Fraction = Field(1e-4, description="share by which a value must be better than the best so far")
    cooldown: CountFromZero = Field(0, description="passes after a drop that count for nothing")
    floor: Fraction = Field(0.0, description="least factor")


class ScheduleConfig(OneOf):
    """A schedule with options of its own: ``{multistep: {at: [0.5, 0.75]}}``."""

    step: Steps | None = Field(None, description="drops at equal distances")
    multistep: Multistep | None = Field(None, description="drops at given places")
    cosine: Cosine | None = Field(None, description="half a cosine down")
    one_cycle: OneCycle | None = Field(None, description="up and down again")
    plateau: Plateau | None = Field(None, description="drops when passes bring nothing more")


Schedule = Steps | Multistep | Cosine | OneCycle | Plateau


def shortest_schedule(schedule: ScheduleName | ScheduleConfig) -> ScheduleName | ScheduleConfig:
    """The one form of a schedule: a word where its options stand at their defaults."""
    if isinstance(schedule, str):
        return schedule
    words: tuple[ScheduleName, ...] = get_args(ScheduleName)
    return next((word for word in words if scheduled(word) == schedule.chosen), schedule)


def scheduled(schedule: ScheduleName | ScheduleConfig) -> Schedule | None:
    """A schedule with its options, however it is written; None where the rate is constant."""
    if schedule == "constant":
        return None
    config = schedule if isinstance(schedule, ScheduleConfig) else ScheduleConfig.model_validate({schedule: {}})
    found: Schedule = config.chosen
    return found
