"""The face that Ray Tune sees: a searcher, a callback and a stopper of plain data over the driver's own objects.

Tune pickles all three, so they hold a key only; dispatcher and display live in the driver and are looked up by it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from raycl.sweep.dispatch import Dispatcher, NothingLeft, configuration
from raycl.sweep.job import Job

log = logging.getLogger(__name__)


@dataclass
class Drive:
    """What one Tuner needs in the driver.

    Attributes:
        constants: the part of a trial's configuration that is the same for all.
        tick: called about every 0.1 s with the tasks learned by each running trial, or with None where Tune tells none;
            raises to end the run at once.
    """

    dispatcher: Dispatcher
    constants: Mapping[str, Any]
    tick: Callable[[Mapping[str, int] | None], None]


_drives: dict[str, Drive] = {}


class SweepSearcher(Searcher):  # type: ignore[misc]
    """Asks the dispatcher. Results are read from the store, never from Tune's reports."""

    def __init__(self, key: str) -> None:
        super().__init__(metric="metric", mode="max")
        self._key = key

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        drive = _drives[self._key]
        drive.tick(None)  # Tune calls nothing else while it waits for a suggestion
        found = drive.dispatcher.suggest_patiently(trial_id)
        if isinstance(found, Job):
            return configuration(found, drive.constants)
        return Searcher.FINISHED if found is NothingLeft else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        _drives[self._key].dispatcher.completed(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: suggestions are in the results folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class SweepCallback(tune.Callback):  # type: ignore[misc]
    """Shows the dispatcher what Tune runs, and gives the display its tick."""

    def __init__(self, key: str) -> None:
        self._key = key

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        drive = _drives.get(self._key)
        if drive is not None:
            drive.dispatcher.statuses = lambda: {trial.trial_id: trial.status for trial in trials}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        drive = _drives.get(self._key)
        if drive is not None:
            running = drive.dispatcher.running
            drive.tick({t.trial_id: (t.last_result or {}).get("task", -1) + 1 for t in trials if t.trial_id in running})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune keeps every trial to the end. The statistics of its metrics are most of that, and nobody reads them."""
        try:
            trial.run_metadata.metric_analysis.clear()
            trial.run_metadata.metric_n_steps.clear()
        except Exception as error:  # one raised here would end the sweep
            log.warning("Tune's statistics of a trial are kept: %s", error)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        try:
            lines = Path(trial.local_path, trial.run_metadata.error_filename).read_text().strip().splitlines()
            _drives[self._key].dispatcher.explain(trial.trial_id, lines[-1].strip())
        except Exception as error:  # one raised here would end the sweep
            log.warning("the reason of a lost trial cannot be read: %s", error)


class SweepStopper(tune.Stopper):  # type: ignore[misc]
    """Stops all trials once the dispatcher has given up."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        drive = _drives.get(self._key)
        return drive is not None and bool(drive.dispatcher.halted)


@dataclass(frozen=True)
class Pruned:
    """Tells the dispatcher of a trial that ASHA stops; plain data, as Tune pickles its scheduler."""

    key: str

    def __call__(self, trial_id: str) -> None:
        _drives[self.key].dispatcher.prune(trial_id)


@contextmanager
def registered(key: str, drive: Drive) -> Iterator[None]:
    """Make a drive known under a key, for as long as its Tuner runs."""
    _drives[key] = drive
    try:
        yield
    finally:
        del _drives[key]
