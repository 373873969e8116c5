"""YAML text to plain data, with the line and column of every key and value.

PyYAML reads YAML 1.1, in which ``1e-3`` is a string, ``no`` is false, ``1:30`` is 90 and ``010`` is 8. This loader
resolves scalars by the core schema of YAML 1.2.2 (section 10.3.2) instead, refuses duplicate keys, every tag that
is not plain data, and more than one document.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from raycl.errors import Problem, SpecError

Path = tuple[str | int, ...]
"""Where a value stands: keys and list positions from the top of the file. A key may itself contain dots."""

MAX_CHARACTERS = 131_072
MAX_VALUES = 5_000
"""Keys and values of a file, and what its aliases stand for: aliases of aliases can stand for more than fit in memory.
The largest sweep that comes with raycl has a tenth."""
MAX_DEPTH = 32
MAX_PROBLEMS = 100
"""Told at once."""
_TOO_MANY = f"a sweep file holds at most {MAX_VALUES:,} keys and values, those that aliases stand for included"

LARGEST_INTEGER = 2**64
"""Whatever an option allows lies far within; Python cannot even print the largest that a file may hold."""
_TOO_LARGE = "whole numbers must lie within 64 bits"
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Place:
    """A line and a column, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class SweepSource:
    """A parsed file.

    Attributes:
        data: dicts, lists, strings, numbers, booleans and None.
        keys: where each mapping key stands, by the path of its value.
        values: where each value begins.
    """

    file: str
    text: str
    data: dict[str, Any]
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)

    def place(self, path: Path, key: bool = False) -> Place:
        """Where ``path`` stands: its value, or its key; its nearest ancestor's key where the file does not hold it."""
        found = self.keys.get(path) if key else self.values.get(path)
        if found is not None:
            return found
        for end in range(len(path), -1, -1):
            found = self.keys.get(path[:end]) or self.values.get(path[:end])
            if found is not None:
                return found
        return Place(1, 1)

    def problem(self, path: Path, rule: str, value: str = "", key: bool = False) -> Problem:
        """A broken rule at ``path``."""
        place = self.place(path, key)
        return Problem(dotted(path), rule, value, place.line, place.column, self.file)


def dotted(path: Sequence[str | int]) -> str:
    """``("model", "hidden", 0)`` -> ``"model.hidden.0"``."""
    return ".".join(str(part) for part in path)


def read(path: str | FilePath) -> SweepSource:
    """Read and parse a file.

    Raises:
        SpecError: it cannot be read, or as for :func:`parse`.
    """
    try:
        with FilePath(path).open("rb") as file:
            text = file.read(4 * MAX_CHARACTERS + 1).decode("utf-8")
    except OSError as error:
        raise SpecError([Problem("file", f"cannot be read: {error.strerror}", file=str(path))]) from error
    except UnicodeDecodeError as error:
        raise SpecError([Problem("file", f"must be UTF-8 text: {error.reason}", file=str(path))]) from error
    return parse(text, str(path))


def parse(text: str, file: str = "<text>") -> SweepSource:
    """Parse YAML 1.2 text whose top level is a mapping.

    Raises:
        SpecError: syntax errors, duplicate keys, tags, or keys that are no strings; every one with its place.
    """
    if len(text) > MAX_CHARACTERS:
        raise SpecError([Problem("file", f"may hold at most {MAX_CHARACTERS:,} characters", file=file)])
    root = _compose(text, file)
    reader = _Reader(SweepSource(file, text, {}))
    if not isinstance(root, yaml.MappingNode):
        raise SpecError([Problem("file", "must hold a mapping of keys, such as name: my_sweep", "", 1, 1, file)])
    try:
        data = reader.value(root, ())
    except RecursionError:
        raise SpecError([Problem("syntax", "blocks are nested too deeply", "", 1, 1, file)]) from None
    if reader.problems:
        raise SpecError(reader.problems[:MAX_PROBLEMS])
    return SweepSource(file, text, data, reader.source.keys, reader.source.values)


def _compose(text: str, file: str) -> yaml.Node | None:
    try:
        return _Loader(text, file).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        rule = " ".join(part for part in (error.context, error.problem) if part)
        if "expected a single document" in rule:
            rule = "one file holds one sweep; remove the second document"
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise SpecError([Problem("syntax", rule, "", line, column, file)]) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise SpecError([Problem("syntax", "this character may not stand in YAML", "", *place, file)]) from None
    except RecursionError:
        raise SpecError([Problem("syntax", "blocks are nested too deeply", "", 1, 1, file)]) from None


class _Loader(yaml.SafeLoader):
    """SafeLoader's scanner and parser with the scalar resolution of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text)
        self._file = file
        self._count = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Every key, value and alias comes by here before anything is made of it."""
        self._count += 1
        self._depth += 1
        if self._count > MAX_VALUES or self._depth > MAX_DEPTH:
            rule = _TOO_MANY if self._count > MAX_VALUES else f"blocks are nested too deeply, more than {MAX_DEPTH}"
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise SpecError([Problem("syntax", rule, "", mark.line + 1, mark.column + 1, self._file)])
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


for _name, _pattern, _first in (
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


class _Reader:
    """Turns composed nodes into data, and notes where each stands."""

    def __init__(self, source: SweepSource) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: Path) -> Any:
        self._count += 1
        self.source.values[path] = _place(node)
        if id(node) in self._open or self._count > MAX_VALUES:
            place = _place(node)
            rule = "aliases may not contain themselves" if id(node) in self._open else _TOO_MANY
            raise SpecError([Problem(dotted(path), rule, "", place.line, place.column, self.source.file)])
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, kind, path)
        if kind not in ("map", "seq"):
            return self._refuse(path, f"tags are not allowed; remove {node.tag}")
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            result: Any = self._mapping(node, path)
        else:
            result = [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        self._open.discard(id(node))
        return result

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            is_text = isinstance(key_node, yaml.ScalarNode) and key_node.tag == _TAG + "str"
            here = (*path, key_node.value if isinstance(key_node, yaml.ScalarNode) else "?")
            place = _place(key_node)
            if not is_text:
                self._refuse(here, "keys must be text; put quotes around it", place)
            elif key_node.value == "<<":
                self._refuse(here, "YAML 1.2 has no merge keys; repeat the keys, or alias the whole block", place)
            elif key_node.value in result:
                first = self.source.keys[here]
                self._refuse(here, f"duplicate key, first given at {first.line}:{first.column}", place)
            else:
                self.source.keys[here] = place
                result[key_node.value] = self.value(value_node, here)
        return result

    def _scalar(self, node: yaml.ScalarNode, kind: str, path: Path) -> Any:
        text: str = node.value
        try:
            if kind == "str":
                return text
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
                return number if abs(number) <= LARGEST_INTEGER else self._refuse(path, _TOO_LARGE)
            if kind == "float":
                return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
        except (ValueError, KeyError):
            return self._refuse(path, f"is not a YAML 1.2 {kind}")
        return self._refuse(path, f"tags are not allowed; remove {node.tag}")

    def _refuse(self, path: Path, rule: str, place: Place | None = None) -> None:
        if place is None:
            self.problems.append(self.source.problem(path, rule))
        else:
            self.problems.append(Problem(dotted(path), rule, "", place.line, place.column, self.source.file))


def _place(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)
