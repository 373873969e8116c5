"""Naive fine-tuning: each task is learned from where the last one ended, and nothing protects what was learned.

The lower bound of every comparison; "None", "SGD" or "finetune" in the literature.
"""

from __future__ import annotations

from typing import ClassVar

from raycl.strategies.base import Strategy, StrategyConfig


class NaiveConfig(StrategyConfig):
    """Naive fine-tuning has no options."""


class Naive(Strategy):
    """Minimise the loss of the current task; nothing happens between tasks."""

    Config = NaiveConfig
    stability = ()
    boundary_free: ClassVar[bool] = True
