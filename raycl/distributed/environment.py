"""What Ray and Tune are told by their surroundings: the environment that raycl hands to them is its own.

Both read dozens of environment variables, some at import, some in processes of their own. Those that would change how a
sweep runs are set or taken out here, so that a sweep runs alike under every shell.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ray._private import parameter, ray_constants
from ray._private import utils as ray_utils
from ray.air._internal import usage
from ray.job_config import JobConfig

TUNE = {
    "TUNE_RESULT_BUFFER_LENGTH": "1",  # a report is a fence: the trial waits in it until the driver has seen it
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # nothing is ever restored from Tune's snapshot
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output engine prints a box even where verbose is 0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would ship the working directory, data and all
}
"""What stands in Ray's environment whatever the user's says."""
TAKEN_OUT = ("TUNE_", "RAY_AIR_", "RAY_TRAIN_", "RAY_TUNE_")
"""Beginnings of the names of all that others may have set for sweeps of their own."""
ALSO_TAKEN_OUT = (
    "RAY_STORAGE",
    "RAY_CLIENT_MODE",
    "RAY_RUNTIME_ENV_HOOK",
    "RAY_START_HOOK",
    "PYTHONWARNINGS",  # a warning that is an error ends Ray's own processes
    "PYTHONINSPECT",  # a process that waits for a prompt never ends
)
QUIET = ("ray", "ray.tune", "ray.data", "ray.train", "ray._private.worker")


def for_ray(values: Mapping[str, str] = {}) -> dict[str, str | None]:
    """Changes to the environment for all that Ray does: values to set, None for what is taken out."""
    theirs = [name for name in os.environ if name.startswith(TAKEN_OUT) or name in ALSO_TAKEN_OUT]
    return {**dict.fromkeys(theirs), **TUNE, **values}


@contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Environment variables for the duration of a block; those with None are absent in it."""
    before = {name: os.environ.get(name) for name in values}
    _apply(values)
    try:
        yield
    finally:
        _apply(before)


def _apply(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def quiet() -> Iterator[None]:
    """Ray's own warnings are left out; its errors stay out too, as raycl says what matters in its own words.

    Nor do Python's warnings become errors in it, whatever the user's filters say.
    """
    loggers = [logging.getLogger(name) for name in QUIET]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def no_shipping() -> Iterator[None]:
    """Ray does not pack the working directory for its workers, though the driver was started by ``uv run``."""
    before = ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV  # read from the environment at import, which may be long ago
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
    try:
        yield
    finally:
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = before


@contextmanager
def entry_point() -> Iterator[None]:
    """Ray calls this driver ``raycl``: by itself it takes the command line, which may hold a password, and dies of one
    that holds a file's name that is no text."""
    before = ray_utils.get_entrypoint_name
    ray_utils.get_entrypoint_name = lambda: "raycl"
    try:
        yield
    finally:
        ray_utils.get_entrypoint_name = before


@contextmanager
def one_driver() -> Iterator[None]:
    """A cluster that is started here is for one driver on one machine: nothing makes it grow, and nobody carries logs.

    Both would be Python processes of their own, started before the first trial.
    """
    before = parameter.RayParams
    parameter.RayParams = partial(before, no_monitor=True, include_log_monitor=False)
    try:
        yield
    finally:
        parameter.RayParams = before


@contextmanager
def uncounted() -> Iterator[None]:
    """Tune does not look which of its integrations are used: for that it imports MLflow, wandb and others."""
    before = usage.tag_callbacks
    usage.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        usage.tag_callbacks = before


class DriversPath(JobConfig):  # type: ignore[misc]
    """Lets workers import what the driver imports, and nothing else.

    By itself Ray puts the directory in which the driver stands before all that its workers have installed, though the
    driver of a console script does not look there: a ``statistics.py`` of the user's would stand for Python's own in
    every trial, and a second checkout of raycl for the one that runs. A driver that does look there (a notebook,
    ``python -m``) has it on its own path, and so do the workers.
    """

    def __init__(self) -> None:
        super().__init__()
        if not _ships_working_dir():
            self._py_driver_sys_path = leading(sys.path)[::-1]  # each goes before the ones before it

    def _runtime_env_has_working_dir(self) -> bool:
        """What Ray asks before it adds directories of its own choice."""
        return True


def _ships_working_dir() -> bool:
    """Whether this is a job whose folder Ray has put on the path of driver and workers, wherever each unpacked it."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return bool((job.get("runtime_env") or {}).get("working_dir"))


def leading(path: list[str]) -> list[str]:
    """The entries that Python looks through before its own library, made absolute.

    What is installed is left out, also what an installed package puts there, as Ray does: a worker has its own.
    """
    library = Path(sysconfig.get_path("stdlib"))
    own = {str(library), str(library.with_name(f"python{sys.version_info.major}{sys.version_info.minor}.zip"))}
    ends = [place for place, entry in enumerate(path) if entry in own]
    before = [Path(entry).absolute() for entry in path[: ends[0] if ends else 0]]
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return [str(entry) for entry in before if not any(entry.is_relative_to(folder) for folder in installed)]
