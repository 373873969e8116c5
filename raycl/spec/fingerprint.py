"""What code a result comes from: raycl's version and commit, and a fingerprint of the classes that made the numbers.

A fingerprint is taken over syntax trees without docstrings, comments and imports, so that only what runs changes it: of
a class, of its bases, and of whatever they use from their own package, however deep; a user's files in one folder are
such a package.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import raycl
from raycl.spec.own_files import package
from raycl.spec.syntax import Code, Parsed, class_in_cell, compiled, is_plain, parsed, plain_text

DECIDING = (
    *("learning", "memory", "models", "strategies"),
    *(
        f"trial.{part}"
        for part in ("batching", "build", "evaluator", "loading", "networks", "optimizers", "rows", "trainer")
    ),
)
"""Parts of raycl whose code makes the numbers of a trial; the others say which trials there are."""

KNOWN = ("raycl", "torch", "pydantic", "builtins", "abc", "typing", "collections", "numpy")
"""Packages whose classes are told by their versions."""

MOST_IMPORTS = 20
"""Modules through which a name is followed to where it is made."""


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
def fingerprint(*roots: Any) -> str:
    """16 hexadecimal digits that name the code of classes and functions, in whatever files it stands."""
    pieces: dict[str, str] = {}
    open_: list[Any] = [found for root in roots for part in _parts(root) for found in _with_bases(part)]
    while open_:
        found = open_.pop()
        name = _name(found)
        if name in pieces:
            continue
        tree = _tree(found)
        if tree is None:
            pieces[name] = repr(found) if isinstance(found, _Constant) else repr(compiled(found))
        else:
            code = Code.of(tree)
            pieces[name] = code.text
            open_ += _used(found, code)
        open_ += _enclosed(found)
    digest = hashlib.sha256("\n".join(sorted(pieces.values())).encode())
    return digest.hexdigest()[:16]


def _parts(root: Any) -> Iterator[Any]:
    """Classes, functions and constants that whatever can be called is made of."""
    if isinstance(root, partial):
        given = [*root.args, *sorted(root.keywords.items())]
        yield from (*_parts(root.func), _Constant("given", tuple(value for value in given if is_plain(value))))
    elif isinstance(root, (type, FunctionType)):
        yield inspect.unwrap(root)
    elif hasattr(root, "__func__"):
        yield root.__func__
    else:  # an object that can be called: its class, and what it holds
        yield type(root)
        for name, value in sorted(getattr(root, "__dict__", {}).items()):
            if is_plain(value):
                yield _Constant(name, value)
            elif callable(value):
                yield from _parts(value)


def _with_bases(root: type | FunctionType) -> Iterator[Any]:
    """A class and those of its bases that are of its package, or of one that is neither raycl's nor a known library."""
    for found in root.__mro__ if isinstance(root, type) else (root,):
        if _package(found) == _package(root) or _package(found) not in KNOWN:
            yield found


# -- what a piece of code uses -----------------------------------------------------------------------------------


def _used(owner: Any, code: Code) -> list[Any]:
    """What a piece of code refers to by a global name, or imports itself, and which belongs to its own package."""
    module = owner if isinstance(owner, ModuleType) else sys.modules.get(_module_name(owner))
    if module is None:
        return []
    found: list[Any] = []
    for name in sorted(code.names & vars(module).keys()):
        found += _meant(name, vars(module)[name], module)
    for name, value in (*_dotted(code, module), *_imported(code, module)):
        found += _meant(name, value, module)
    return found


def _meant(name: str, value: Any, module: ModuleType) -> list[Any]:
    """What a global name stands for: a class with its bases, a function, a module, a constant, or how it was made."""
    value = inspect.unwrap(value) if callable(value) else value
    if is_plain(value):
        return [_Constant(f"{module.__name__}.{name}", value)]
    if isinstance(value, type):
        return [base for base in value.__mro__ if _follows(base, module)]
    if isinstance(value, ModuleType) or (isinstance(value, FunctionType) and value.__name__ != "<lambda>"):
        return [value] if _follows(value, module) else []
    made = _Made.of(name, module)
    if made is not None or Parsed.of(module).tree.body:
        return [made] if made is not None else []
    if is_plain(value, mutable=True):  # without source, as in a notebook, the value has to tell
        return [_Constant(f"{module.__name__}.{name}", value)]
    return [base for base in type(value).__mro__ if _follows(base, module)]


def _dotted(code: Code, module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What is reached through modules: ``package.sums.total``."""
    for node in code.attributes:
        inner = _module_at(node.value, module)
        if inner is not None and node.attr in vars(inner) and _follows(inner, module):
            yield f"{inner.__name__}.{node.attr}", vars(inner)[node.attr]


def _module_at(node: ast.AST, module: ModuleType) -> ModuleType | None:
    """The module that an expression names; None where it names something else."""
    found: Any = None
    if isinstance(node, ast.Name):
        found = vars(module).get(node.id)
    elif isinstance(node, ast.Attribute):
        outer = _module_at(node.value, module)
        found = vars(outer).get(node.attr) if outer is not None else None
    return found if isinstance(found, ModuleType) else None


def _imported(code: Code, module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What functions and classes import from their own package when they run."""
    for node in code.imports:
        if isinstance(node, ast.ImportFrom):
            source = _source_of(node, module)
            if source is not None:
                yield from ((alias.name, getattr(source, alias.name, source)) for alias in node.names)
        elif isinstance(node, ast.Import):
            inner = [alias.name for alias in node.names if package(alias.name) == _package(module)]
            yield from ((name, import_module(name)) for name in inner)


def _source_of(node: ast.ImportFrom, module: ModuleType) -> ModuleType | None:
    """The module that names are imported from, where it is of the same package."""
    name = resolve_name("." * node.level + (node.module or ""), module.__package__)
    return import_module(name) if package(name) == _package(module) else None


def _enclosed(value: Any) -> list[Any]:
    """What functions, and the methods of classes, have closed over: where a function made them, it decides too."""
    own = vars(value).values() if isinstance(value, type) else (value,)
    found: list[Any] = []
    for function in (inspect.unwrap(each) for each in own if isinstance(each, FunctionType)):
        module = sys.modules.get(function.__module__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # a cell that is not filled yet
                inner = cell.cell_contents
                if module is not None and (is_plain(inner) or isinstance(inner, (type, FunctionType))):
                    found += _meant(f"{function.__qualname__}.{name}", inner, module)
    return found


class _Constant:
    """A value at the top of a module."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self._value = name, value

    def __repr__(self) -> str:
        return plain_text(self._value)


class _Made:
    """How a global came to be that is no plain value, class or function: the statements that bind its name.

    Its value says nothing: it may be filled as it goes, and its text may hold an address.
    """

    def __init__(self, name: str, module: ModuleType, statements: list[ast.stmt]) -> None:
        self.name, self.__module__ = f"{module.__name__}.{name} =", module.__name__
        self.tree = ast.Module(statements, [])

    @staticmethod
    @cache
    def of(name: str, module: ModuleType) -> _Made | None:
        """None where the name comes from elsewhere, or there is no source."""
        name = name.rpartition(".")[2]
        for _ in range(MOST_IMPORTS):
            bound = Parsed.of(module).bound.get(name, [])
            origin = next((node for node in bound if isinstance(node, ast.ImportFrom)), None)
            if origin is None:
                return _Made(name, module, bound) if bound and _follows(module, module) else None
            source = _source_of(origin, module)
            if source is None:
                return None
            name = next(alias.name for alias in origin.names if name in (alias.asname, alias.name))
            module = source
        return None


def _follows(value: Any, module: ModuleType) -> bool:
    """Whether ``value`` belongs to the package of ``module``; of raycl, to what makes numbers."""
    return _package(value) == _package(module) and _decides(value)


def _decides(value: Any) -> bool:
    top, _, rest = _module_name(value).partition(".")
    return top != "raycl" or any(f"{rest}.".startswith(f"{part}.") for part in DECIDING)


def _package(value: Any) -> str:
    return package(_module_name(value))


def _module_name(value: Any) -> str:
    return value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", ""))


def _name(value: Any) -> str:
    if isinstance(value, (_Constant, _Made)):
        return value.name
    return value.__name__ if isinstance(value, ModuleType) else f"{value.__module__}.{value.__qualname__}"


def _tree(value: Any) -> ast.AST | None:
    """The syntax tree of a module, class or function; None of a constant, or where there is no source."""
    if isinstance(value, _Constant):
        return None
    if isinstance(value, _Made):
        return value.tree
    try:
        if isinstance(value, ModuleType):
            return parsed(inspect.getsource(value)).tree
        definitions = Parsed.of(sys.modules.get(value.__module__)).definitions
        whole = definitions.get(value.__qualname__)
        if whole is None and isinstance(value, type):
            whole = class_in_cell(value)
        return whole if whole is not None else ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None
