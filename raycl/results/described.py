"""What the data set says of its columns: meaning, unit and range of each, and how to read them without raycl."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from raycl.catalog import catalog
from raycl.errors import RayclError
from raycl.matrix import METRICS, AccuracyMatrix
from raycl.results.columns import MEANING, RANGES, UNITS
from raycl.results.hyperparameters import HP, LIST_OR_NUMBER, WORD
from raycl.results.inside import INSIDE_METRICS, InsideCurves
from raycl.spec.memory import MemoryConfig
from raycl.spec.training import TrainingConfig

MEASURE = "measure."
COLUMNS = "raycl.columns"
"""In a file's metadata: all of this as JSON, column -> what is said of it, for readers that see no field's metadata."""
SAID = ("meaning", "unit", "range")
_BOUNDS = {"minimum": "[", "exclusiveMinimum": "(", "maximum": "]", "exclusiveMaximum": ")"}
HOW_TO_READ = """\
# The data set of a sweep

A folder for each kind of table, with one file that has every column of every method: `trials`, a row for each trial
that has ended; `cells`, one for each cell of each accuracy matrix. While the sweep runs, the files are replaced whole
every few seconds. Each column has its meaning, unit and range in its field's metadata; as JSON they stand under
`raycl.columns` in the file's. Give these lines from the results folder, which holds `data`.

## pandas

```python
import pandas
trials = pandas.read_parquet("data/trials")
print(trials.query("status == 'finished'").groupby(["alias", "phase"])["average_accuracy"].mean())
```

## Polars

```python
import polars
trials = polars.read_parquet("data/trials/*.parquet")
print(trials.filter(status="finished").group_by("alias", "phase").agg(polars.mean("average_accuracy")))
```

## DuckDB

```python
import duckdb
trials = duckdb.sql("SELECT * FROM 'data/trials/*.parquet'")
print(duckdb.sql("SELECT alias, phase, avg(average_accuracy) FROM trials WHERE status = 'finished' GROUP BY ALL"))
```

## What a column means

```python
import pyarrow.dataset
for field in pyarrow.dataset.dataset("data/trials", format="parquet").schema:
    print(field.name, field.type, field.metadata)
```
"""


def described(
    table: pa.Schema, methods: Sequence[str] = (), models: Sequence[str] = (), streams: Sequence[str] = ()
) -> pa.Schema:
    """The same columns, each with its meaning, unit and range as far as they are known, and all of it in the metadata.

    Args:
        methods, models, streams: whose options may stand in columns ``hp.*``; those that this process does not know
            say nothing.
    """
    options = _options(methods, models, streams) if methods else {}
    said = {field.name: _said(field.name, options) for field in table}
    fields = [field.with_metadata({key: text for key, text in said[field.name].items() if text}) for field in table]
    return pa.schema(fields, {**(table.metadata or {}), COLUMNS: json.dumps(said)})


def _said(name: str, options: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    if name.startswith(HP):
        path = name.removeprefix(HP).removesuffix(WORD)
        found = dict(options.get(path, {"meaning": "an option of a method, a model or a stream"}))
        if name.endswith(WORD):
            return {"meaning": f"the word in place of a number: {found['meaning']}"}
        return found | ({"meaning": f"{found['meaning']} (as JSON)"} if path in LIST_OR_NUMBER else {})
    if name.startswith(MEASURE):
        return {"meaning": "a number of the method's own after the last task, or of the network before it"}
    low, high = RANGES.get(name, ("", ""))
    return dict(zip(SAID, (_meaning(name), UNITS.get(name, ""), f"[{low}, {high}]" if low else ""), strict=True))


def _meaning(name: str) -> str:
    if name in MEANING:
        return MEANING[name]
    metric = name if name in METRICS else re.sub(r"_\d+$", "", name)
    owner = AccuracyMatrix if metric in METRICS else InsideCurves if metric in INSIDE_METRICS else None
    told = inspect.getdoc(getattr(owner, metric)) if owner else ""
    return re.sub(r":\w+:`~?([^`]+)`", r"\1", (told or "").split("\n\n")[0]).replace("\n", " ")


def _options(methods: Sequence[str], models: Sequence[str], streams: Sequence[str]) -> dict[str, dict[str, str]]:
    """What is said of each option, by its path; of one that several of these have, all that they say."""
    known = catalog()
    blocks = [("", block) for block in _configs(known.strategies, methods)]
    blocks += [("model.", block) for block in _configs(known.models, models)]
    blocks += [("stream.", block) for block in _configs(known.streams, streams)]
    blocks += [("training.", TrainingConfig), ("memory.", MemoryConfig)]
    found: dict[str, list[dict[str, str]]] = {}
    for prefix, block in blocks:
        schema = block.model_json_schema()
        for path, said in _keys(schema, schema.get("$defs", {}), prefix):
            found.setdefault(path, []).append(said)
    return {path: _together(all_said) for path, all_said in found.items()}


def _configs(registry: Any, names: Sequence[str]) -> Iterator[type[BaseModel]]:
    for name in names:
        try:
            yield registry.get(name).Config
        except (RayclError, ImportError):  # of a package that is not installed here: its columns say nothing
            continue


def _together(all_said: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {key: "; ".join(dict.fromkeys(said[key] for said in all_said if said[key])) for key in SAID}


def _keys(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, dict[str, str]]]:
    """(path, what is said of it) of every key of an options class, and of those inside it."""
    for key, value in schema.get("properties", {}).items():
        parts = [_resolved(part, definitions) for part in value.get("anyOf", [value])]
        about = next((part["description"] for part in (value, *parts) if "description" in part), "")
        said = (about.replace("\n", " "), "", " or ".join(filter(None, map(_range, parts))))
        yield prefix + key, dict(zip(SAID, said, strict=True))
        for part in parts:
            yield from _keys(part, definitions, f"{prefix}{key}.")


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    return definitions[schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema


def _range(schema: Mapping[str, Any]) -> str:
    """The values that an option may have: ``[0, 1]``, or the words."""
    if "enum" in schema or "const" in schema:
        return " or ".join(map(str, schema.get("enum", [schema.get("const")])))
    ends = {key: sign for key, sign in _BOUNDS.items() if key in schema}
    low = next((f"{sign}{schema[key]:g}" for key, sign in ends.items() if sign in "[("), "(-inf")
    high = next((f"{schema[key]:g}{sign}" for key, sign in ends.items() if sign in "])"), "inf)")
    return f"{low}, {high}" if ends else ""
