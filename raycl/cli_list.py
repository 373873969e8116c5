"""What ``raycl ls`` prints: what a sweep file may name, and the options of one such thing."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raycl.catalog import catalog
from raycl.registry import Registry
from raycl.spec.options import LARGEST, MOST
from raycl.spec.space import format_value

KINDS = ("strategies", "streams", "datasets", "models")


def listing(kind: str, name: str | None) -> RenderableType:
    """All entries of a kind, or one with its options.

    Raises:
        UnknownName: there is no such entry.
    """
    registry: Registry[Any] = getattr(catalog(), kind)
    if name is not None:
        return _one(kind, name, registry.get(name))
    columns = {"strategies": _strategy, "datasets": _dataset}.get(kind, _plain)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows = [{"name": entry} | _row(columns, registry, entry) for entry in registry.names()]
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    for heading in headings:
        table.add_column(heading, no_wrap=heading in ("name", "scenarios"))
    for row in rows:
        table.add_row(*(Text(row.get(heading, "")) for heading in headings))
    return table


def _row(columns: Any, registry: Registry[Any], name: str) -> dict[str, str]:
    try:
        row: dict[str, str] = columns(registry.get(name))
    except ImportError as error:  # of an installed package; the others are still worth listing
        return {"about": f"cannot be imported: {error}"}
    return row


def _strategy(entry: Any) -> dict[str, str]:
    marks = [word for word, on in (("memory", entry.uses_memory), ("upper bound", entry.upper_bound)) if on]
    return {
        "scenarios": _scenarios(entry),
        "needs": ", ".join(marks),
        "about": _about(entry),
    }


def _dataset(entry: Any) -> dict[str, str]:
    info = entry.info
    if info is None:
        return {"images": "known once read", "about": _about(entry)}
    return {
        "images": " x ".join(map(str, info.image_shape)),
        "classes": str(info.num_classes),
        "train": f"{info.train_size:,}",
        "test": f"{info.test_size:,}",
        "about": _about(entry),
    }


def _plain(entry: Any) -> dict[str, str]:
    return {"about": _about(entry)}


def _about(entry: Any) -> str:
    """The first sentence of what an entry says of itself, or of its options."""
    own = entry if inspect.isclass(entry) else getattr(entry, "Config", None) or type(entry)
    return (inspect.getdoc(own) or "").split("\n\n")[0].replace("\n", " ").replace("``", "")


def _scenarios(entry: Any) -> str:
    return ", ".join(name for name in ("task", "domain", "class") if name in entry.scenarios)


def _one(kind: str, name: str, entry: Any) -> RenderableType:
    parts: list[RenderableType] = [Text.assemble((name, "bold"), f"  {_about(entry)}")]
    facts: dict[str, str] = {}
    if kind == "strategies":
        facts = {"paper": entry.paper, **_strategy(entry), "boundaries": _boundaries(entry), "auto": _published(entry)}
        facts.pop("about")
    elif kind == "datasets":
        facts = {key: value for key, value in _dataset(entry).items() if key != "about"}
    grid = Table(box=None, show_header=False, pad_edge=False)
    for key, value in facts.items():
        if value:
            grid.add_row(Text(key, style="bold"), Text(value))
    if grid.row_count:
        parts.append(grid)
    options = getattr(entry, "Config", None)
    if options is not None:
        parts.append(_options(options))
        if options.search_space:
            parts.append(Text(f"usual search space: {{{_space(options.search_space)}}}"))
            parts.append(Text(f"to take it, write  {name}: search", style="dim"))
    return Group(*parts)


def _published(entry: Any) -> str:
    """What this method sets where the shared blocks leave it open, otherwise than others do."""
    scenarios: dict[str, list[str]] = {}
    for scenario, options in entry.published.items():
        told = ", ".join(f"{path}: {value}" for path, value in options.items())
        scenarios.setdefault(told, []).append(scenario)
    parts = [told if len(names) == 3 else f"{'/'.join(names)}: {told}" for told, names in scenarios.items()]
    return "\n".join(parts)


def _boundaries(entry: Any) -> str:
    return "may be hidden" if entry.boundary_free else "must be given"


def _space(space: Mapping[str, Any]) -> str:
    parts = []
    for path, data in space.items():
        ((word, arguments),) = data.items()
        parts.append(f"{path}: {{{word}: [{', '.join(map(format_value, arguments))}]}}")
    return ", ".join(parts)


def _options(options: type[BaseModel]) -> RenderableType:
    schema = options.model_json_schema()
    if not schema.get("properties"):
        return Text("no options", style="dim")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("option", "value", "default", "about"):
        table.add_column(heading, no_wrap=heading == "option")
    required = schema.get("required", [])
    for key, value in schema["properties"].items():
        default = "required" if key in required else json.dumps(value.get("default")).strip('"')
        kind = type_text(value, schema.get("$defs", {}))
        table.add_row(Text(key), Text(kind), Text(default), Text(value.get("description", "")))
    return table


def type_text(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON Schema as a few words: ``"whole number >= 1, or null"``."""
    if "$ref" in schema:
        return type_text(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    if "anyOf" in schema:
        return ", or ".join(type_text(part, definitions) for part in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return " | ".join(str(value) for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "any")
    if kind == "array":
        inner: Sequence[Mapping[str, Any]] = schema.get("prefixItems") or [schema.get("items", {})]
        return f"list of {', '.join(type_text(part, definitions) for part in inner)}"
    if kind == "object" and "properties" in schema:
        inside = (f"{key}: {type_text(value, definitions)}" for key, value in schema["properties"].items())
        return f"{{{', '.join(inside)}}}"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true | false"}
    return " ".join([words.get(kind, kind), *_bounds(schema)])


def _bounds(schema: Mapping[str, Any]) -> list[str]:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    ends = {key: schema[key] for key in signs if key in schema and schema[key] not in (LARGEST, MOST)}
    return [f"{signs[key]} {end:g}" for key, end in ends.items()]
