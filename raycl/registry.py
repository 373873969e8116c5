"""Named entries that a sweep file may refer to: built-in ones, and those of installed packages through entry points."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Self, TypeVar

from raycl.errors import UnknownName, nearest
from raycl.spec.fingerprint import fingerprint

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
        self._registered: dict[str, T] = {}
        self._codes: dict[str, str] = {}

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        own = {name: EntryPoint(name, target, self.group) for name, target in self._builtin.items()}
        installed = {point.name: point for point in entry_points(group=self.group)}
        return {**installed, **own}

    def names(self) -> tuple[str, ...]:
        """All names, built-in ones first, in the order of their registration."""
        return (*self._builtin, *sorted({*self._entries, *self._registered} - self._builtin.keys()))

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._registered

    def register(self, name: str, entry: T, code: str = "") -> None:
        """Add an entry of this process, under a name that no built-in or installed one has; again replaces it.

        Args:
            code: its fingerprint, where it was registered elsewhere and comes without its source.

        Raises:
            UnknownName: the name is taken.
        """
        if name in self._entries:
            raise UnknownName(f"{self.kind} {name!r} is there already; choose another name")
        self._registered[name] = entry
        self._codes[name] = code

    def extended(self, entries: Mapping[str, tuple[T, str]]) -> Self:
        """A copy with more entries, which stand before its own; neither hears of what the other registers.

        Args:
            entries: name -> entry and fingerprint, as :meth:`beyond` gives them.
        """
        self.names()  # looks installed packages up, once for all copies
        made = copy(self)
        made._registered = self._registered | {name: entry for name, (entry, _) in entries.items()}
        made._codes = self._codes | {name: code for name, (_, code) in entries.items()}
        return made

    def beyond(self, usual: Registry[T]) -> dict[str, tuple[T, str]]:
        """The entries with their fingerprints, by name, that nobody finds installed under the names of ``usual``."""
        own = (name for name in self.names() if self._target(name) is None or self._target(name) != usual._target(name))
        return {name: (self.get(name), self.code(name)) for name in own}

    def _target(self, name: str) -> str | None:
        """What any process imports for a name; None where it was registered at run time, or is not there."""
        known = name in self._entries and name not in self._registered
        return self._entries[name].value if known else None

    def code(self, name: str) -> str:
        """The fingerprint of an entry that was registered at run time; empty for installed ones: they have versions."""
        entry = self._registered.get(name)
        if entry is None:
            return ""
        if not self._codes[name]:
            root: Any = entry if isinstance(entry, type) else getattr(entry, "build", type(entry))
            self._codes[name] = fingerprint(root)
        return self._codes[name]

    def package(self, name: str) -> tuple[str, str] | None:
        """Name and version of the installed package that an entry comes from; None where it comes from none."""
        entry = None if name in self._registered else self._entries.get(name)
        return (entry.dist.name, entry.dist.version) if entry is not None and entry.dist is not None else None

    def get(self, name: str) -> T:
        """Import and return the entry ``name``.

        Raises:
            UnknownName: no such entry; the message names the nearest one.
        """
        if name in self._registered:
            return self._registered[name]
        if name not in self._entries:
            known = ", ".join(self.names())
            raise UnknownName(f"unknown {self.kind} {name!r}{nearest(name, self._entries)} (known: {known})")
        point = self._entries[name]
        module = import_module(point.module)
        return getattr(module, point.attr)  # type: ignore[no-any-return]
