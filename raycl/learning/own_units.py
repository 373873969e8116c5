"""Networks that answer for one task at a time: which output units they have, and when that cannot be."""

from __future__ import annotations

from raycl.errors import MethodError, Problem, SpecError
from raycl.spec.needs import Need
from raycl.streams.scenario import Scenario

OWN_HEADS = Need(
    "model.head",
    "must give every task output units of its own; set per_task",
    lambda at: at.per_task_head,
)


def own_head_only(subject: str) -> Need:
    """What :func:`require_own_units` refuses, as the reader of a sweep file can tell it."""
    return Need(
        "training.active_logits",
        _own_head_only(subject),
        lambda at: at.shared_units or at.training.active_logits not in ("seen", "all"),
    )


def require_own_heads(scenario: Scenario, method: str) -> None:
    """What :data:`OWN_HEADS` says, where there is no sweep file.

    Raises:
        MethodError: tasks share output units.
    """
    if not scenario.per_task_head:
        raise MethodError(f"{method}: needs output units of their own for every task; set model.head: per_task")


def require_own_units(scenario: Scenario, subject: str) -> None:
    """Refuse a softmax over the heads of several tasks.

    Raises:
        SpecError: the sweep file asks for one; ``subject`` names who has a single task's head.
    """
    if not scenario.shared and scenario.active_logits in ("seen", "all"):
        raise SpecError([Problem("training.active_logits", _own_head_only(subject), scenario.active_logits)])


def _own_head_only(subject: str) -> str:
    return f"{subject} has its own task's head only; use auto, own or current"


def competing_units(scenario: Scenario, task: int) -> range:
    """The units inside the softmax of a task's rows."""
    return scenario.units(task) if scenario.policy in ("own", "current") else range(scenario.outputs(task))
