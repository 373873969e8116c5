"""The ``memory`` block: the replay memory of methods that keep examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from raycl.spec.needs import Idle, Need
from raycl.spec.options import Count, Later, Options

if TYPE_CHECKING:
    from raycl.spec.setting import Setting


def _at_home(setting: Setting) -> bool:
    return setting.memory.home == "local"


def _freezes(setting: Setting) -> bool:
    """Whether random replacement would be asked more often than it has rows to give."""
    offers = setting.offers
    if offers is not None and setting.memory.unit == "task" and setting.extent is not None:
        offers //= len(setting.extent.sizes)
    capacity = setting.memory.capacity
    return offers is not None and capacity != "auto" and offers > capacity


class MemoryConfig(Options):
    """The replay memory of methods that keep examples."""

    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "memory.combine",
            "weighs by the number of tasks seen, which nobody tells where stream.boundaries is 'hidden'; "
            "use another weighting",
            lambda at: not (at.hidden and at.memory.combine == "task_share"),
        ),
        Need(
            "memory.unit",
            "counts rows per task, and nobody tells tasks apart where stream.boundaries is 'hidden'; "
            "use total or class",
            lambda at: not (at.hidden and at.memory.unit == "task"),
        ),
        Need(
            "memory.selection",
            "replaces capacity / i rows when rows are offered for the i-th time: with fewer rows than offers the "
            "memory freezes; use reservoir, or enlarge memory.capacity",
            lambda at: at.selection != "random" or at.memory.unit == "class" or not _freezes(at),
        ),
        Need(
            "memory.capacity",
            "is what limits.max_state_bytes leaves room for, and there is none; set the limit, or a number of examples",
            lambda at: at.memory.capacity != "auto" or at.limits.max_state_bytes is not None,
        ),
    )
    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(("memory.shards",), "only replay actors are divided; set memory.home: actor", _at_home),
        Idle(("memory.insert",), "with one epoch the first is every one", lambda at: at.training.epochs == 1),
    )

    between_tasks: ClassVar[tuple[str, ...]] = ("memory.batch_size", "memory.combine", "memory.mix")

    capacity: Count | Literal["auto"] = Field(
        500, description="examples, counted per unit; auto: the most for which limits.max_state_bytes leaves room"
    )
    unit: Literal["total", "class", "task"] = Field("total", description="what the capacity counts for")
    selection: Literal["auto", "reservoir", "class_balanced", "random", "ring", "greedy", "ranked"] = Field(
        "auto", description="which examples stay; auto: the method's own rule"
    )
    batch_size: Count | None = Field(
        None, description="replayed examples per update; default: as the method's authors have it, else training's"
    )
    combine: Annotated[Literal["auto", "sum", "mean", "union", "task_share"], Later(before="sum")] = Field(
        "auto",
        description="mean losses of new and of replayed examples: added, averaged, one mean over the union of both, or "
        "weighted 1/t and 1 - 1/t; auto: as the method's authors have it, else sum",
    )
    insert: Annotated[Literal["auto", "first_epoch", "every_epoch"], Later(before="first_epoch")] = Field(
        "auto",
        description="when examples are offered to the memory; auto: as the method's authors have it, else first_epoch",
    )
    mix: Literal["size", "equal", "paired"] = Field(
        "size",
        description="where one shuffled union is trained on: in proportion to the sizes, memory repeated to about the "
        "size of the new data, or a batch of each in every update",
    )
    home: Literal["actor", "local"] = Field(
        "actor", description="who holds the rows in a sweep: Ray actors or the trial itself; results are equal"
    )
    shards: Annotated[int, Field(ge=1, le=1024)] = Field(1, description="replay actors per trial; results are equal")

    @property
    def examples(self) -> int:
        """The capacity of a trial that is being built, where it is a number (:mod:`raycl.trial.room`)."""
        assert self.capacity != "auto"
        return self.capacity
