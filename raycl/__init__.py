"""raycl: distributed sweep orchestration for continual learning on Ray.

Example:
    >>> import raycl
    >>> sweep = raycl.load_sweep({
    ...     "name": "small",
    ...     "stream": {"name": "split", "dataset": "digits", "tasks": 5},
    ...     "model": {"name": "mlp"},
    ...     "training": {"iterations": 5},
    ...     "strategies": {"naive": {}, "replay": {}},
    ...     "final": {"seeds": [0]},
    ... })
    >>> raycl.run_trial(sweep, "replay", seed=1).matrix.num_tasks
    5
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycl.errors import RayclError as RayclError
    from raycl.errors import SpecError as SpecError
    from raycl.matrix import AccuracyMatrix as AccuracyMatrix
    from raycl.models.registry import model as model
    from raycl.results.view import Results as Results
    from raycl.spec.sweep import SweepSpec as SweepSpec
    from raycl.strategies.base import Strategy as Strategy
    from raycl.strategies.registry import strategy as strategy
    from raycl.streams.registry import dataset as dataset
    from raycl.streams.registry import stream as stream
    from raycl.streams.registry import stream_from_arrays as stream_from_arrays
    from raycl.streams.stream import Stream as Stream
    from raycl.sweep.library import run as run
    from raycl.trial.alone import Trial as Trial
    from raycl.trial.alone import run_trial as run_trial
    from raycl.trial.alone import trainer as trainer
    from raycl.trial.check import load_sweep as load_sweep
    from raycl.trial.trainer import Trainer as Trainer

__version__ = "0.2.0"

_PUBLIC = {
    "AccuracyMatrix": "raycl.matrix",
    "RayclError": "raycl.errors",
    "Results": "raycl.results.view",
    "SpecError": "raycl.errors",
    "Strategy": "raycl.strategies.base",
    "Stream": "raycl.streams.stream",
    "SweepSpec": "raycl.spec.sweep",
    "Trainer": "raycl.trial.trainer",
    "Trial": "raycl.trial.alone",
    "dataset": "raycl.streams.registry",
    "load_sweep": "raycl.trial.check",
    "model": "raycl.models.registry",
    "run": "raycl.sweep.library",
    "run_trial": "raycl.trial.alone",
    "strategy": "raycl.strategies.registry",
    "stream": "raycl.streams.registry",
    "stream_from_arrays": "raycl.streams.registry",
    "trainer": "raycl.trial.alone",
}
"""Public name -> the module that has it, which is imported when the name is first asked for."""

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'raycl' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
