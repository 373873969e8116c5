"""Checks data against an options class, and says what is wrong as one-line rules in the words of a sweep file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from raycl.errors import nearest
from raycl.spec.distribution import format_value
from raycl.spec.options import StreamConfig
from raycl.spec.source import MAX_PROBLEMS, Path
from raycl.spec.space import DISTRIBUTIONS, SEARCH

O = TypeVar("O", bound=BaseModel)  # noqa: E741


@dataclass(frozen=True)
class Broken:
    """A rule that the value at ``path`` (below the checked data) breaks; ``key``: the key itself is the problem."""

    path: Path
    rule: str
    value: str = ""
    key: bool = False


class BrokenRules(Exception):
    """Data does not fit an options class. Never leaves the specification: it becomes problems with places there."""

    def __init__(self, broken: Sequence[Broken]) -> None:
        super().__init__("; ".join(f"{entry.path}: {entry.rule}" for entry in broken))
        self.broken = tuple(broken)


def validate(options: type[O], data: Any) -> O:
    """Build ``options`` from plain data, strictly: ``"4"`` and ``true`` never stand for 4.

    Raises:
        BrokenRules: with every rule that is broken.
    """
    try:
        return options.model_validate_json(json.dumps(data))
    except ValidationError as error:
        details = error.errors(include_url=False)[:MAX_PROBLEMS]
    by_path: dict[Path, list[ErrorDetails]] = {}
    for detail in details:
        by_path.setdefault(_trim(detail["loc"], data, detail["type"]), []).append(detail)
    broken: list[Broken] = []
    for path, found in by_path.items():
        below = any(other[: len(path)] == path and other != path for other in by_path)
        fitting = [detail for detail in found if not _of_another_kind(detail, found)]
        if below and all(detail["type"] in ("too_short", "too_long") for detail in fitting):
            continue  # pydantic counts the valid items only, and says that a mapping is no word
        broken.append(_broken(options, path, fitting or found))
    raise BrokenRules(broken)


def _of_another_kind(detail: ErrorDetails, found: Sequence[ErrorDetails]) -> bool:
    """Whether a value that may be a word, a list or a mapping is told, being one of them, that it is not another."""
    words = any(other["type"] == "literal_error" for other in found)
    others = {"tuple_type": (Mapping,), "model_type": (list, str) if words else (list,), "literal_error": (Mapping,)}
    return isinstance(detail["input"], others.get(detail["type"], ()))


def _trim(loc: Sequence[str | int], data: Any, kind: str) -> Path:
    """The part of pydantic's location that exists in the data; it adds the names of union members."""
    path: list[str | int] = []
    for index, part in enumerate(loc):
        if isinstance(data, Mapping) and part in data:
            data = data[str(part)]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif kind == "missing" and index == len(loc) - 1:
            return (*path, part)
        else:
            continue
        path.append(part)
    return tuple(path)


def _broken(options: type[BaseModel], path: Path, found: Sequence[ErrorDetails]) -> Broken:
    kinds = {detail["type"] for detail in found}
    value = found[0]["input"]
    if kinds == {"extra_forbidden"}:
        known = _known(options, path[:-1])
        key = str(path[-1])
        return Broken(path, f"unknown key{nearest(key, known) or _listed(known)}", key=True)
    if kinds == {"missing"}:
        return Broken(path, "is required", key=True)
    if isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in DISTRIBUTIONS:
        return Broken(path, f"a distribution may stand in {_WHERE} only", format_value(value))
    rules = list(dict.fromkeys(_rule(detail) for detail in found))
    if value == SEARCH:
        rules.append(f"'search' may stand in {_WHERE} only")
    shown = "" if kinds == {"value_error"} and not path else format_value(value)
    return Broken(path, " or ".join(rules) if len(rules) > 1 and value != SEARCH else "; ".join(rules), shown)


_WHERE = "strategies, training, model and memory"
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
_KINDS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "none_required": "must be null",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping of options",
}


def _rule(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        return f"must be {word} {format_value(context[key]).removesuffix('.0')}"
    if kind in _KINDS:
        return _KINDS[kind]
    if kind == "literal_error":
        expected = str(context["expected"])
        options = [name.strip("' ") for name in expected.replace(" or ", ",").split(",")]
        hint = nearest(detail["input"], options) if isinstance(detail["input"], str) else ""
        return f"must be {expected}{hint}"
    if kind in ("too_short", "too_long"):
        word, key = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        return f"must hold {word} {context[key]} item{'' if context[key] == 1 else 's'}"
    if kind == "value_error":
        return str(context["error"])
    message = detail["msg"].replace("Input should", "must")
    return message[0].lower() + message[1:]


def _known(options: type[BaseModel], path: Path) -> list[str]:
    """The keys that the options class nested at ``path`` knows."""
    for part in path:
        field = options.model_fields.get(str(part))
        nested = () if field is None else (field.annotation, *get_args(field.annotation))
        found = [kind for kind in nested if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if len(found) != 1:
            return []
        options = found[0]
    return list(options.model_fields)


def _listed(known: Sequence[str]) -> str:
    return f" (known: {', '.join(known)})" if known else ""


def moved_stream(stream: StreamConfig, given: Mapping[str, Any]) -> StreamConfig:
    """A stream with other values of some options.

    Raises:
        BrokenRules: it does not take them.
    """
    moved: StreamConfig = validate(type(stream), {**stream.model_dump(mode="json"), **given})
    return moved
