"""Named entries that a sweep file may refer to: built-in ones, and those of installed packages through entry points."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from raycl.errors import UnknownName, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A map from names to objects that are imported on first use.

    Args:
        kind: what the entries are, for messages: ``"strategy"``.
        group: entry-point group in which installed packages add entries: ``"raycl.strategies"``.
        builtin: name -> ``"module:attribute"``.
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._builtin = dict(builtin)

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        own = {name: EntryPoint(name, target, self.group) for name, target in self._builtin.items()}
        installed = {point.name: point for point in entry_points(group=self.group)}
        return {**installed, **own}

    def names(self) -> tuple[str, ...]:
        """All names, built-in ones first, in the order of their registration."""
        return tuple(self._builtin) + tuple(sorted(set(self._entries) - set(self._builtin)))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def get(self, name: str) -> T:
        """Import and return the entry ``name``.

        Raises:
            UnknownName: no such entry; the message names the nearest one.
        """
        if name not in self._entries:
            known = ", ".join(self.names())
            raise UnknownName(f"unknown {self.kind} {name!r}{nearest(name, self._entries)} (known: {known})")
        point = self._entries[name]
        module = import_module(point.module)
        return getattr(module, point.attr)  # type: ignore[no-any-return]
