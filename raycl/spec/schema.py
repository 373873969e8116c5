"""The JSON Schema of sweep files, every registered method included, so that editors complete and check them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from raycl.spec.distribution import WHEN
from raycl.spec.evaluation import EvaluationConfig
from raycl.spec.memory import MemoryConfig
from raycl.spec.options import EXACT, LARGEST
from raycl.spec.overrides import STRATEGY_OVERRIDES, VARIANT_OVERRIDES
from raycl.spec.setting import Registries
from raycl.spec.space import DISTRIBUTIONS, MOST_CHOICES, SEARCH
from raycl.spec.sweep_file import NAME, REQUIRED, TOP_KEYS
from raycl.spec.sweep_options import (
    FinalConfig,
    LimitsConfig,
    PrunerConfig,
    ResourcesConfig,
    SearchConfig,
    TableConfig,
)
from raycl.spec.training import TrainingConfig

JsonSchema = dict[str, Any]

_WHEN_HELP = "searched only where other searched options have these values: {mode: online}"

BLOCKS: Mapping[str, type[BaseModel]] = {
    "training": TrainingConfig,
    "memory": MemoryConfig,
    "search": SearchConfig,
    "pruner": PrunerConfig,
    "table": TableConfig,
    "final": FinalConfig,
    "evaluation": EvaluationConfig,
    "limits": LimitsConfig,
    "resources": ResourcesConfig,
}
"""The blocks of a sweep file that are the same whatever it names: beside them, streams, models and methods."""


def json_schema(catalog: Registries) -> JsonSchema:
    """The schema, in JSON Schema 2020-12."""
    definitions: JsonSchema = {"distribution": _distribution()}
    fields: dict[str, list[JsonSchema]] = {}
    blocks: dict[str, JsonSchema] = {}
    for block, options in BLOCKS.items():
        blocks[block] = _block(block, [options], definitions, fields)
    blocks["stream"] = _block("stream", _configs(catalog.streams), definitions, fields)
    blocks["model"] = _block("model", _configs(catalog.models), definitions, fields)
    for path, found in fields.items():
        definitions[path] = _any(found)
    names = [name for name in catalog.strategies.names() if catalog.strategies.get(name)]
    strategies = {name: _strategy(catalog, name, fields, definitions) for name in names}
    aliased = [_alias(name) for name in names]
    top: JsonSchema = {
        "name": {"type": "string", "pattern": f"^{NAME.pattern}$"},
        **blocks,
        "strategies": {
            "type": "object",
            "minProperties": 1,
            "properties": {name: {"anyOf": [{"$ref": f"#/$defs/{key}"}, _word()]} for name, key in strategies.items()},
            "additionalProperties": {"anyOf": aliased},
        },
        "report": {"type": "boolean", "default": True},
        "variants": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "properties": _references(fields, VARIANT_OVERRIDES),
                "additionalProperties": False,
            },
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A sweep of raycl",
        "type": "object",
        "required": list(REQUIRED),
        "properties": {key: {"description": TOP_KEYS[key], **top[key]} for key in TOP_KEYS},
        "additionalProperties": False,
        "$defs": definitions,
    }


def _configs(registry: Any) -> list[type[BaseModel]]:
    return [registry.get(name).Config for name in registry.names()]


def _block(
    block: str, kinds: Iterable[type[BaseModel]], definitions: JsonSchema, fields: dict[str, list[JsonSchema]]
) -> JsonSchema:
    """A block that takes one of several options classes; its fields are added to ``fields`` by dotted path."""
    found = []
    for options in kinds:
        schema = _options(options, definitions, searchable=block in STRATEGY_OVERRIDES)
        for name, value in schema["properties"].items():
            fields.setdefault(f"{block}.{name}", []).append(value)
        found.append(schema)
    return _any(found)


def _strategy(catalog: Registries, name: str, fields: Mapping[str, Any], definitions: JsonSchema) -> str:
    """Define the block of one method; returns the definition's name."""
    schema = _options(catalog.strategies.get(name).Config, definitions, searchable=True)
    schema["properties"] = {
        "strategy": {"const": name, "description": "the method, where its name in the sweep is another"},
        **schema["properties"],
        **_references(fields, STRATEGY_OVERRIDES),
    }
    definitions[f"strategy.{name}"] = schema
    return f"strategy.{name}"


def _alias(name: str) -> JsonSchema:
    return {"$ref": f"#/$defs/strategy.{name}", "required": ["strategy"]}


def _references(fields: Iterable[str], roots: Iterable[str]) -> JsonSchema:
    """Dotted overrides of the given blocks."""
    return {path: {"$ref": f"#/$defs/{path}"} for path in fields if path.split(".")[0] in roots}


def _options(options: type[BaseModel], definitions: JsonSchema, searchable: bool) -> JsonSchema:
    """An options class; ``searchable``: a distribution may stand in place of every value."""
    prefix = f"{options.__module__}.{options.__qualname__}"
    schema = options.model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
    for name, nested in schema.pop("$defs", {}).items():
        definitions[f"{prefix}.{name}"] = nested
    schema.setdefault("properties", {})
    schema.setdefault("additionalProperties", False)
    if searchable:
        properties = schema["properties"]
        schema["properties"] = {key: value if key == "name" else _searched(value) for key, value in properties.items()}
    return schema


def _searched(value: JsonSchema) -> JsonSchema:
    outer: JsonSchema = {key: value.pop(key) for key in ("description", "title", "default") if key in value}
    return {**outer, "anyOf": [value, {"$ref": "#/$defs/distribution"}, _word()]}


def _word() -> JsonSchema:
    return {"const": SEARCH, "description": "the usual search space"}


def _any(schemas: list[JsonSchema]) -> JsonSchema:
    distinct = [schema for index, schema in enumerate(schemas) if schema not in schemas[:index]]
    return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}


def _distribution() -> JsonSchema:
    properties: JsonSchema = {}
    for word, family in DISTRIBUTIONS.items():
        count = {"quniform": 3}.get(word, 2)
        whole = word.endswith("randint")
        most = EXACT if whole else LARGEST
        item: JsonSchema = {"type": "integer" if whole else "number", "minimum": -most, "maximum": most}
        arguments: JsonSchema = {"items": item, "minItems": count, "maxItems": count}
        properties[word] = {
            "type": "array",
            **({"minItems": 1, "maxItems": MOST_CHOICES} if word == "choice" else arguments),
            "description": f"{(family.__doc__ or '').strip().splitlines()[0]} {family.arguments}",
        }
    return {
        "type": "object",
        "description": "a distribution in place of a value: the value is searched",
        "properties": {**properties, WHEN: {"type": "object", "minProperties": 1, "description": _WHEN_HELP}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 2,
        "oneOf": [{"required": [word]} for word in properties],
    }
