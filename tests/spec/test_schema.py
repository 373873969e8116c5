"""The JSON Schema accepts what the reader accepts, and refuses typos."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from raycl.spec.schema import json_schema
from raycl.spec.source import parse

from .fakes import BASE, CATALOG


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema(CATALOG)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


GOOD = [
    ("naive: {}", "online: {strategy: ewc, mode: online}"),
    ("ewc: {penalty: {loguniform: [1, 1e10]}}", "ewc: search"),
    ("{loguniform: [1, 1e10]}", "search"),
    ("naive: {}", "naive: {training.iterations: 7, model.channels: 3}"),
    ("limits:", "variants: {small: {memory.capacity: 200, stream.tasks: 2}}\nlimits:"),
    ("final: {seeds: [10, 11, 12]}", "pruner: {quantile: 0.5}"),
]
BAD = [
    ("batch_size", "batch_sise"),
    ("penalty:", "penaty:"),
    ("loguniform: [1,", "logunifrom: [1,"),
    ("naive: {}", "niave: {}"),
    ("naive: {}", "other: {strategy: niave}"),
    ("naive: {}", "naive: {stream.tasks: 3}"),
    ("tasks: 5", "tasks: {choice: [1, 2]}"),
    ("name: split", "name: spilt"),
    ("name: question\n", ""),
    ("limits:", "variants: {small: {memory.capacty: 200}}\nlimits:"),
]


@pytest.mark.parametrize(("old", "new"), [("name", "name"), *GOOD])
def test_good_files_fit(validator: Any, old: str, new: str) -> None:
    assert old in BASE
    assert not list(validator.iter_errors(parse(BASE.replace(old, new)).data))


@pytest.mark.parametrize(("old", "new"), BAD)
def test_typos_do_not(validator: Any, old: str, new: str) -> None:
    assert old in BASE
    assert list(validator.iter_errors(parse(BASE.replace(old, new)).data))
