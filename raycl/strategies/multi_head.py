"""Multi-head fine-tuning: a trunk that all tasks share and a head for each, of which only the current one learns.

The usual lower bound where the task id is given; van de Ven and Tolias, "Three scenarios for continual learning", 2019
(arXiv 1904.07734), "None" in the task-incremental scenario. The softmax runs over the task's own units. Old heads stay
as they are to the last bit, so that all forgetting is drift of the trunk.

Naive fine-tuning with ``model.head: per_task`` is the same, to the bit: no method moves rows of the head that none of
its losses reaches (:mod:`raycl.trial.optimizers`). This one refuses settings that would make it another.
"""

from __future__ import annotations

from typing import ClassVar

from raycl.learning.own_units import OWN_HEADS, own_head_only
from raycl.spec.needs import Need
from raycl.strategies.base import Strategy, StrategyConfig


class MultiHeadConfig(StrategyConfig):
    """Multi-head fine-tuning has no options."""


class MultiHead(Strategy):
    """Minimise the loss of the current task over its own head."""

    Config = MultiHeadConfig
    stability = ()
    needs: ClassVar[tuple[Need, ...]] = (OWN_HEADS, own_head_only("a network of several heads"))
    scenarios: ClassVar[frozenset[str]] = frozenset({"task"})
    paper: ClassVar[str] = "van de Ven and Tolias 2019, Three scenarios for continual learning (arXiv 1904.07734)"
    naive_when: ClassVar[dict[str, object]] = {}
