"""What code a result comes from: raycl's version and commit, and a fingerprint of the classes that made the numbers.

A fingerprint is taken over syntax trees without docstrings, comments and imports, so that only what runs changes it: of
a class, of its bases, and of whatever they use from their own package, however deep.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import raycl

DECIDING = (
    *("batching", "evaluator", "learning", "loading", "memory", "models", "networks", "optimizers", "rows"),
    *("strategies", "trainer"),
)
"""Parts of raycl whose code makes the numbers of a trial; the others say which trials there are."""

KNOWN = ("raycl", "torch", "pydantic", "builtins", "abc", "typing", "collections", "numpy")
"""Packages whose classes are told by their versions."""


@cache
def commit() -> str:
    """The commit of raycl's own repository; empty where it is installed without one.

    A job that runs a copy without the repository is told by ``RAYCL_COMMIT``.
    """
    told = os.environ.get("RAYCL_COMMIT", "")
    root = Path(raycl.__file__).resolve().parents[1]
    if not told and (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
        with suppress(OSError):
            told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return told


@cache
def fingerprint(*roots: type | FunctionType) -> str:
    """16 hexadecimal digits that name the code of classes and functions, in whatever files it stands."""
    pieces: dict[str, str] = {}
    open_: list[Any] = [found for root in roots for found in _with_bases(root)]
    while open_:
        found = open_.pop()
        name = _name(found)
        if name not in pieces:
            tree = _tree(found)
            pieces[name] = repr(found) if tree is None else ast.unparse(_bare(copy.deepcopy(tree)))
            open_ += [] if tree is None else _used(found, tree)
    digest = hashlib.sha256("\n".join(sorted(pieces.values())).encode())
    return digest.hexdigest()[:16]


def _with_bases(root: type | FunctionType) -> Iterator[Any]:
    """A class and those of its bases that are of its package, or of one that is neither raycl's nor a known library."""
    for found in root.__mro__ if isinstance(root, type) else (root,):
        if _package(found) == _package(root) or _package(found) not in KNOWN:
            yield found


def _used(owner: Any, tree: ast.AST) -> list[Any]:
    """What a piece of code refers to by a global name, or imports itself, and which belongs to its own package."""
    module = owner if isinstance(owner, ModuleType) else sys.modules.get(_module_name(owner))
    if module is None:
        return []
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    values = {name: vars(module)[name] for name in sorted(names) if name in vars(module)}
    found: list[Any] = []
    for name, value in (*values.items(), *_imported(tree, module)):
        if isinstance(value, (bool, int, float, str, bytes, tuple, frozenset)):
            found.append(_Constant(f"{module.__name__}.{name}", value))
        elif isinstance(value, type):
            found += [base for base in value.__mro__ if _follows(base, module)]
        elif isinstance(value, (FunctionType, ModuleType)) and _follows(value, module):
            found.append(value)
    return found


def _imported(tree: ast.AST, module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What functions and classes import from their own package when they run."""
    inner = () if isinstance(tree, ast.Module) else ast.walk(tree)
    for node in inner:
        if isinstance(node, ast.ImportFrom):
            name = resolve_name("." * node.level + (node.module or ""), module.__package__)
            if name.partition(".")[0] == _package(module):
                source = import_module(name)
                yield from ((alias.name, getattr(source, alias.name, source)) for alias in node.names)


class _Constant:
    """A value at the top of a module."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self._value = name, value

    def __repr__(self) -> str:
        return repr(self._value)


def _follows(value: Any, module: ModuleType) -> bool:
    """Whether ``value`` belongs to the package of ``module``; of raycl, to what makes numbers."""
    return _package(value) == module.__name__.partition(".")[0] and _decides(value)


def _decides(value: Any) -> bool:
    package, _, rest = _module_name(value).partition(".")
    return package != "raycl" or rest.partition(".")[0] in DECIDING


def _package(value: Any) -> str:
    return _module_name(value).partition(".")[0]


def _module_name(value: Any) -> str:
    return value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", ""))


def _name(value: Any) -> str:
    if isinstance(value, (_Constant, ModuleType)):
        return value.name if isinstance(value, _Constant) else value.__name__
    return f"{value.__module__}.{value.__qualname__}"


def _tree(value: Any) -> ast.AST | None:
    """The syntax tree of a module, class or function; None of a constant, or where there is no source."""
    if isinstance(value, _Constant):
        return None
    try:
        if isinstance(value, ModuleType):
            return ast.parse(inspect.getsource(value))
        whole = _definitions(value.__module__).get(value.__qualname__)
        return whole if whole is not None else ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None


@cache
def _definitions(module: str) -> dict[str, ast.AST]:
    """The classes and functions at the top of a module's file: read once, however many are asked for."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, SyntaxError, KeyError):
        return {}
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {node.name: node for node in tree.body if isinstance(node, kinds)}


def _bare(tree: ast.AST) -> ast.AST:
    """The tree, without docstrings, comments and imports."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [child for child in body if not isinstance(child, (ast.Import, ast.ImportFrom))]
            kept = [child for child in kept if not _is_text(child)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a docstring, of whatever stands before or after it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
