"""What ``raycl ls`` prints: what a sweep file may name, the options of one such thing, and the keys of its blocks."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from pydantic import BaseModel
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raycl.catalog import catalog
from raycl.cli.fitting import Fitting
from raycl.cli.heads import PaperRow, measured
from raycl.errors import UnknownName, nearest
from raycl.matrix import METRICS, AccuracyMatrix
from raycl.results.inside import INSIDE_METRICS, InsideCurves
from raycl.spec import schema
from raycl.spec.distribution import format_value
from raycl.spec.evaluation import DIAGNOSTICS
from raycl.spec.options import LARGEST, MOST

REGISTRIES = ("strategies", "streams", "datasets", "models")
LISTED_BLOCKS = {name: schema.BLOCKS[name] for name in ("training", "memory", "search", "limits", "evaluation")}
ALL_METRICS = (*METRICS, *INSIDE_METRICS, *DIAGNOSTICS)
KINDS = (*REGISTRIES, *LISTED_BLOCKS, "metrics")


class Option(NamedTuple):
    """One key of an options class, in words; ``value`` is its type with its bounds."""

    key: str
    value: str
    default: str
    about: str


def listing(kind: str, name: str | None) -> RenderableType:
    """All entries of a kind, or one with its options.

    Raises:
        UnknownName: there is no such entry.
    """
    if kind in LISTED_BLOCKS:
        return _block(kind, name)
    if kind == "metrics":
        return _metrics(name)
    registry = getattr(catalog(), kind)
    if name is not None:
        return _one(kind, name, registry.get(name))
    columns = {"strategies": _strategy, "datasets": dataset}.get(kind, _plain)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows = [{"name": entry} | _row(columns, registry, entry) for entry in registry.names()]
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    for heading in headings:
        table.add_column(heading, no_wrap=heading in ("name", "scenarios"))
    for row in rows:
        table.add_row(*(Text(row.get(heading, "")) for heading in headings))
    return table


def _row(columns: Any, registry: Any, name: str) -> dict[str, str]:
    try:
        row: dict[str, str] = columns(registry.get(name))
    except ImportError as error:  # of an installed package; the others are still worth listing
        return {"about": f"cannot be imported: {error}"}
    return row


def _strategy(entry: Any) -> dict[str, str]:
    marks = [word for word, on in (("memory", entry.uses_memory), ("upper bound", entry.upper_bound)) if on]
    return {
        "scenarios": scenarios(entry),
        "needs": ", ".join(marks),
        "about": _about(entry),
    }


def dataset(entry: Any) -> dict[str, str]:
    """What is known of a data set: images, classes, sizes."""
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
    return _said((inspect.getdoc(own) or "").split("\n\n")[0].replace("\n", " "))


def scenarios(entry: Any) -> str:
    return ", ".join(name for name in ("task", "domain", "class") if name in entry.scenarios)


def _one(kind: str, name: str, entry: Any) -> RenderableType:
    parts: list[RenderableType] = [Text.assemble((name, "bold"), f"  {_about(entry)}")]
    facts: dict[str, str] = {}
    if kind == "strategies":
        facts = {"paper": entry.paper, **_strategy(entry), "boundaries": _boundaries(entry), "auto": _published(entry)}
        facts.pop("about")
    elif kind == "datasets":
        facts = {key: value for key, value in dataset(entry).items() if key != "about"}
    grid = Table(box=None, show_header=False, pad_edge=False)
    for key, value in facts.items():
        if value:
            grid.add_row(Text(key, style="bold"), Text(value))
    if grid.row_count:
        parts.append(grid)
    if kind == "strategies" and (papers := measured(name)):
        parts += _papers(papers)
    options = getattr(entry, "Config", None)
    if options is not None:
        parts.append(_options(options))
        if options.search_space:
            parts.append(Text(f"usual search space: {{{_space(options.search_space)}}}"))
            parts.append(Text(f"to take it, write  {name}: search", style="dim"))
    return Group(*parts)


def _papers(papers: Sequence[PaperRow]) -> list[RenderableType]:
    """The shipped sweeps that hold a method in a paper's setting, with what was measured, and what was published."""
    rows = [(one.sweep, one.key, one.accuracy or "not yet", one.published) for one in papers]
    headings = ("sweep of a paper", "there", "average %", "beside")
    first = papers[0].sweep
    told = f"to start from one:  raycl copy {first}    what its head says:  raycl ls sweeps {first}"
    table = Fitting(headings, rows, ("there",), folded=("sweep of a paper", "beside"), narrowest=14)
    return [table, Text(told, style="dim")]


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
        parts.append(f"{path}: {flow(data)}")
    return ", ".join(parts)


def flow(distribution: Mapping[str, Sequence[Any]]) -> str:
    """A distribution as a sweep file has it, on one line."""
    ((word, arguments),) = distribution.items()
    return f"{{{word}: [{', '.join(map(format_value, arguments))}]}}"


def _block(kind: str, name: str | None) -> RenderableType:
    """The keys of a block of the sweep file, or one of them with those below it."""
    block = LISTED_BLOCKS[kind]
    found = list(options(block))
    if name is not None:
        key = name.removeprefix(f"{kind}.")
        _known(f"key of {kind}", key, [option.key for option in found])
        found = [option for option in found if option.key == key or option.key.startswith(f"{key}.")]
    return Group(Text.assemble((kind, "bold"), f"  {_about(block)}"), _table(found))


def _metrics(name: str | None) -> RenderableType:
    """What each metric is, or all that is said of one."""
    if name is not None:
        _known("metric", name, ALL_METRICS)
        return Text.assemble((name, "bold"), f"  {_said(metric(name))}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("about")
    for each in ALL_METRICS:
        table.add_row(Text(each), Text(_said(metric(each).split("\n\n")[0].replace("\n", " "))))
    return table


def metric(name: str) -> str:
    """What a metric says of itself, as its docstring has it."""
    owner: type[Any] = AccuracyMatrix if name in METRICS else InsideCurves
    if name in DIAGNOSTICS:
        owner = import_module("raycl.trial.diagnostics").Diagnosis  # torch takes seconds, which other lists do without
    return inspect.getdoc(getattr(owner, name)) or ""


def _said(docstring: str) -> str:
    """A docstring without the marks that are for other readers."""
    return re.sub(r":\w+:`~?([^`]+)`", r"\1", docstring).replace("``", "")


def _known(kind: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise UnknownName(f"unknown {kind} {name!r}{nearest(name, names)} (known: {', '.join(names)})")


def _options(block: type[BaseModel]) -> RenderableType:
    found = list(options(block))
    return _table(found) if found else Text("no options", style="dim")


def _table(found: Iterable[Option]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("option", "value", "default", "about"):
        table.add_column(heading, no_wrap=heading == "option")
    for option in found:
        table.add_row(*map(Text, option))
    return table


def options(block: type[BaseModel]) -> Iterator[Option]:
    """Every key of an options class; those of a class inside it by dotted path, after the key that holds it."""
    schema = block.model_json_schema()
    yield from _keys(schema, schema.get("$defs", {}), "")


def _keys(schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[Option]:
    required = schema.get("required", [])
    for key, value in schema.get("properties", {}).items():
        default = "required" if key in required else json.dumps(value.get("default")).strip('"')
        inner = _inside(value, definitions)
        yield Option(f"{prefix}{key}", type_text(value, definitions), default, _description(value, inner))
        yield from _keys(inner, definitions, f"{prefix}{key}.")


def _description(schema: Mapping[str, Any], inner: Mapping[str, Any]) -> str:
    """What is said of a key, or else of the type of its value."""
    said = (part.get("description") for part in (schema, *schema.get("anyOf", ()), inner))
    return next((text.replace("\n", " ") for text in said if text), "")


def _inside(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options class that may stand as a value; nothing where it is no such value."""
    names = [part["$ref"].rsplit("/", 1)[-1] for part in schema.get("anyOf", [schema]) if "$ref" in part]
    found = [definitions[name] for name in names if "properties" in definitions[name]]
    return found[0] if found else {}


def type_text(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON Schema as a few words: ``"whole number >= 1, or null"``."""
    if "$ref" in schema:
        named = definitions[schema["$ref"].rsplit("/", 1)[-1]]
        return "keys" if "properties" in named else type_text(named, definitions)
    if "anyOf" in schema and "type" not in schema:  # beside a type it is a further bound, told in the description
        return ", or ".join(type_text(part, definitions) for part in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return " | ".join(str(value) for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "any")
    if kind == "array":
        inner: Sequence[Mapping[str, Any]] = schema.get("prefixItems") or [schema.get("items", {})]
        told = f"list of {', '.join(type_text(part, definitions) for part in inner)}"
        return f"{told}, {_length(schema)}" if _length(schema) and "prefixItems" not in schema else told
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true | false"}
    return " ".join([words.get(kind, kind), *_bounds(schema)])


def _bounds(schema: Mapping[str, Any]) -> list[str]:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    ends = {key: schema[key] for key in signs if key in schema and schema[key] not in (LARGEST, MOST)}
    return [f"{signs[key]} {_number(end)}" for key, end in ends.items()]


def _number(end: float) -> str:
    """A bound as a person would write it."""
    powers = {2**53: "2^53", 2**63: "2^63"}
    return powers.get(end) or (f"{end:,}" if isinstance(end, int) and end < 10**9 else f"{end:g}")  # type: ignore[call-overload]


def _length(schema: Mapping[str, Any]) -> str:
    """How long a list may be."""
    words = {"minItems": "at least", "maxItems": "at most"}
    return ", ".join(f"{word} {schema[key]:,}" for key, word in words.items() if schema.get(key))
