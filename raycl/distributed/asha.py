"""ASHA, the asynchronous alternative to pruning by generations.

Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020 (arXiv 1810.05934), as Ray Tune has it.
A search trial is compared, at each rung of tasks learned, with whatever other trials of its entry have got there by
then: nobody waits, and a second run may prune others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

NO_LAST_RUNG = 1_000_000
"""Above any stream's length: rungs end where the tasks do, and the last task prunes nobody."""


class EntryASHA(FIFOScheduler):  # type: ignore[misc]  # ray ships no types for it
    """One ASHA bracket per entry, over its search trials alone. Finalists and final trials always run to their end.

    Args:
        stopped: told of every trial that is stopped, before Tune ends it; picklable.
    """

    def __init__(self, grace_tasks: int, reduction_factor: int, stopped: Callable[[str], None]) -> None:
        super().__init__()
        self._settings = {"grace_period": grace_tasks, "reduction_factor": reduction_factor}
        self._stopped = stopped
        self._brackets: dict[str, AsyncHyperBandScheduler] = {}

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        bracket = self._bracket(trial)
        if bracket is not None:
            bracket.on_trial_add(controller, trial)

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        bracket = self._bracket(trial)
        if bracket is None or result.get("done"):
            return str(TrialScheduler.CONTINUE)
        action = str(bracket.on_trial_result(controller, trial, result))
        if action == TrialScheduler.STOP:
            self._stopped(trial.trial_id)
        return action

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        bracket = self._bracket(trial)
        if bracket is not None:
            bracket.on_trial_complete(controller, trial, result)

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        bracket = self._bracket(trial)
        if bracket is not None:
            bracket.on_trial_remove(controller, trial)

    def _bracket(self, trial: Any) -> AsyncHyperBandScheduler | None:
        """The bracket of a trial's entry; None for trials that are never pruned."""
        entry = trial.config.get("bracket")
        if not entry:
            return None
        if entry not in self._brackets:
            self._brackets[entry] = AsyncHyperBandScheduler(
                time_attr="tasks",
                metric="metric",
                mode="max",
                max_t=NO_LAST_RUNG,
                stop_last_trials=False,
                **self._settings,
            )
        return self._brackets[entry]
