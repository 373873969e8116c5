"""Syntax trees of classes, functions and modules as they stand in their files, without what is only read."""

from __future__ import annotations

import ast
import copy
import inspect
import linecache
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any


class Parsed:
    """A file's text, parsed once.

    Attributes:
        definitions: classes and functions at its top.
        bound: name -> the statements of the module, outside classes and functions, that bind it.
    """

    def __init__(self, text: str) -> None:
        self.tree = ast.parse(text)
        self.definitions: dict[str, ast.AST] = {
            node.name: node for node in self.tree.body if isinstance(node, _DEFINITIONS)
        }
        self.bound: dict[str, list[ast.stmt]] = {}
        for node in _statements(self.tree.body):
            for name in _binds(node):
                self.bound.setdefault(name, []).append(node)

    @classmethod
    def of(cls, module: ModuleType | None) -> Parsed:
        """A module as its file stands; empty where it has none."""
        try:
            return parsed("" if module is None else inspect.getsource(module))
        except (OSError, TypeError, SyntaxError):
            return parsed("")


@dataclass(frozen=True)
class Code:
    """What a tree says, gathered once: much is used by many.

    Attributes:
        text: what runs of it.
        names: every name in it.
        attributes: every attribute of a dotted name that is read.
        imports: what it imports when it runs; a module's own imports are names of it.
    """

    text: str
    names: frozenset[str]
    attributes: tuple[ast.Attribute, ...]
    imports: tuple[ast.Import | ast.ImportFrom, ...]

    @staticmethod
    @cache
    def of(tree: ast.AST) -> Code:
        nodes = list(ast.walk(tree))
        dotted = (ast.Name, ast.Attribute)
        return Code(
            ast.unparse(_bare(tree)),
            frozenset(node.id for node in nodes if isinstance(node, ast.Name)),
            tuple(node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, dotted)),
            tuple(
                node
                for node in (nodes if not isinstance(tree, ast.Module) else ())
                if isinstance(node, (ast.Import, ast.ImportFrom))
            ),
        )


@cache
def parsed(text: str) -> Parsed:
    return Parsed(text)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those below ``if``, ``try`` and ``with`` included; definitions are left out."""
    for node in body:
        if not isinstance(node, _DEFINITIONS):
            yield node
            for inner in ("body", "orelse", "finalbody", "handlers"):
                yield from _statements(getattr(node, inner, []))


def _binds(node: ast.stmt) -> set[str]:
    """The names that a statement itself gives a value."""
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", ast.Pass())]
    stored = (inner for target in targets for inner in ast.walk(target))
    return {inner.id for inner in stored if isinstance(inner, ast.Name)}


_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def class_in_cell(value: type) -> ast.AST | None:
    """The tree of a class whose module has no file, as in a notebook: it stands where its methods do."""
    codes = [method.__code__ for method in vars(value).values() if isinstance(method, FunctionType)]
    for code in codes:
        try:
            tree = parsed("".join(linecache.getlines(code.co_filename))).tree
        except SyntaxError:
            continue
        classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == value.__name__)
        for node in classes:
            if node.lineno <= code.co_firstlineno <= (node.end_lineno or node.lineno):
                return node
    return None


def compiled(value: Any) -> Any:
    """What runs of a class or function without any source, as it was typed into an interpreter for example."""
    if isinstance(value, type):
        bases = [f"{base.__module__}.{base.__qualname__}" for base in value.__bases__]
        own = [(name, compiled(each)) for name, each in sorted(vars(value).items()) if name not in _UNMEANT]
        return value.__qualname__, bases, own
    if isinstance(value, CodeType):
        constants = value.co_consts[1:] if _opens_with_text(value) else value.co_consts
        return value.co_code.hex(), value.co_names, [compiled(constant) for constant in constants]
    function = getattr(value, "__func__", value)
    if isinstance(function, FunctionType):
        return compiled(function.__code__)
    return plain_text(value) if is_plain(value) else type(value).__qualname__


def _opens_with_text(code: CodeType) -> bool:
    """Whether the first constant may be a docstring: a function's is, or is None."""
    return bool(code.co_consts) and isinstance(code.co_consts[0], (str, type(None)))


_UNMEANT = ("__dict__", "__doc__", "__module__", "__weakref__")


def _bare(tree: ast.AST) -> ast.AST:
    """The tree, without docstrings, comments and imports: a copy of its statements over the same expressions."""
    bare = copy.copy(tree)
    for name, value in ast.iter_fields(tree):
        if isinstance(value, list):
            kept = [_bare(child) if isinstance(child, _HOLDS_STATEMENTS) else child for child in value]
            if name == "body":
                kept = [child for child in kept if not isinstance(child, (ast.Import, ast.ImportFrom))]
                kept = [child for child in kept if not _is_text(child)] or [ast.Pass()]
            setattr(bare, name, kept)
    return bare


_HOLDS_STATEMENTS = (ast.stmt, ast.ExceptHandler, ast.match_case)
"""Nodes that may be statements or hold some; an expression holds none."""


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a docstring, of whatever stands before or after it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def is_plain(value: Any, mutable: bool = False) -> bool:
    """Whether a value is a constant, through and through; ``mutable``: or lists, sets and mappings of such."""
    if mutable and isinstance(value, dict):
        return all(is_plain(each, mutable) for item in value.items() for each in item)
    if isinstance(value, (tuple, frozenset)) or (mutable and isinstance(value, (list, set))):
        return all(is_plain(each, mutable) for each in value)
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes))


def plain_text(value: Any) -> str:
    """A plain value as text that is the same in every process: sets have no order."""
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}({sorted(map(plain_text, value))})"
    return f"({', '.join(map(plain_text, value))})" if isinstance(value, tuple) else repr(value)
