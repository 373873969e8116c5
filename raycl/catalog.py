"""Everything a sweep file may name, in one object that the sweep specification is checked against."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from raycl.errors import UnknownName
from raycl.models.registry import MODELS
from raycl.registry import Registry
from raycl.spec.setting import Registered
from raycl.strategies.registry import STRATEGIES
from raycl.streams.registry import DATASETS, STREAMS

FILES: dict[str, ModuleType] = {}
"""Modules that :func:`import_code` has made of files; no other process could import them by their names."""


@dataclass(frozen=True)
class Catalog:
    """The four registries. A sweep is read with one, and its trials are built from the same."""

    strategies: Registry[Any]
    streams: Registry[Any]
    datasets: Registry[Any]
    models: Registry[Any]

    def snapshot(self) -> Catalog:
        """The same as it is now: what is registered later changes nothing in it."""
        return self.extended({})

    def extended(self, more: Registered) -> Catalog:
        """A copy with more entries, which stand before its own."""
        return Catalog(
            **{field.name: getattr(self, field.name).extended(more.get(field.name, {})) for field in fields(self)}
        )

    def beyond_installed(self) -> Registered:
        """What no other process finds by itself, for the catalogue of that process to be extended by."""
        usual = catalog()
        return {kind.name: getattr(self, kind.name).beyond(getattr(usual, kind.name)) for kind in fields(self)}


def catalog() -> Catalog:
    """The registries of this installation, entry points of installed packages included."""
    return Catalog(STRATEGIES, STREAMS, DATASETS, MODELS)


def import_code(given: str) -> ModuleType:
    """Import a user's file (``my_method.py``) or module (``package.module``), so that it registers what it defines.

    Raises:
        UnknownName: there is none, or it cannot be imported; the message names the error and its line.
    """
    try:
        return _import_file(Path(given)) if given.endswith(".py") else importlib.import_module(given)
    except Exception as error:  # whatever a user's code raises, it is told in one line
        raise UnknownName(f"--import {given}: {_told(error)}") from error


def _import_file(path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    name = path.stem
    if name in FILES and FILES[name].__file__ == str(path):
        return FILES[name]
    if name in sys.modules:
        raise UnknownName(f"a module {name!r} is imported already; rename the file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UnknownName("no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    FILES[name] = module
    return module


def _told(error: Exception) -> str:
    """An error in one line, with the line of the user's code that raised it."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<") and Path(file) != Path(__file__):
            place = f" (line {trace.tb_lineno} of {Path(file).name})"
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        return f"{error.msg} (line {error.lineno} of {Path(error.filename or '').name})"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return f"{error}" if isinstance(error, UnknownName) else f"{type(error).__name__}: {error}{place}"
