"""Every number of a sweep file has a least and a largest value, in the reader and in the JSON Schema alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import jsonschema
import pytest
from pydantic import Field

from raycl.catalog import catalog
from raycl.errors import SpecError
from raycl.spec.distribution import DistributionError
from raycl.spec.options import EXACT, LARGEST, MOST, Options
from raycl.spec.schema import json_schema
from raycl.spec.source import parse
from raycl.spec.space import RandInt, find
from raycl.spec.sweep import SweepSpec
from raycl.spec.sweep_options import ResourcesConfig

BASE = """\
name: bounds
stream: {name: split, dataset: digits, tasks: 5}
model: {name: mlp, hidden: [20]}
training: {batch_size: 32, epochs: 2}
memory: {capacity: 500}
strategies:
  replay: {}
final: {seeds: [10]}
resources: {cpus: 1}
"""


def open_ended(schema: Any, path: str = "") -> Iterator[str]:
    """Places in a JSON Schema where a number, or a list, has no least or no largest value."""
    if isinstance(schema, dict):
        kind = schema.get("type")
        if kind in ("integer", "number"):
            if not {"minimum", "exclusiveMinimum"} & schema.keys():
                yield f"{path}: no least"
            if not {"maximum", "exclusiveMaximum"} & schema.keys():
                yield f"{path}: no largest"
        if kind == "array" and "maxItems" not in schema:
            yield f"{path}: of any length"
        for key, value in schema.items():
            yield from open_ended(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from open_ended(value, f"{path}/{index}")


def test_every_number_has_both_ends() -> None:
    assert list(open_ended(json_schema(catalog()))) == []


def test_mutants_a_count_and_a_list_without_a_largest_value() -> None:
    class Former(Options):
        capacity: Annotated[int, Field(ge=1)] = 500
        hidden: tuple[int, ...] = ()

    assert list(open_ended(Former.model_json_schema())) == [
        "/properties/capacity: no largest",
        "/properties/hidden: of any length",
        "/properties/hidden/items: no least",
        "/properties/hidden/items: no largest",
    ]


@pytest.fixture(scope="module")
def schema() -> Any:
    return jsonschema.Draft202012Validator(json_schema(catalog()))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "capacity: 500",
            f"capacity: {2**63}",
            f"5:20: memory.capacity: must be at most {MOST} or must be 'auto' (got {2**63})",
        ),
        (
            "capacity: 500",
            f"capacity: {MOST + 1}",
            f"5:20: memory.capacity: must be at most {MOST} or must be 'auto' (got {MOST + 1})",
        ),
        ("epochs: 2", f"epochs: {10**12}", f"4:36: training.epochs: must be at most {MOST} (got {10**12})"),
        ("tasks: 5", "tasks: 10001", "2:47: stream.tasks: must be at most 10000 (got 10001)"),
        ("[20]", "[65537]", "3:29: model.hidden.0: must be at most 65536 (got 65537)"),
        ("cpus: 1", "cpus: 4097", "9:19: resources.cpus: must be at most 4096 (got 4097)"),
        (
            "cpus: 1",
            "gpus: 1.5",
            "9:19: resources.gpus: must be a share of one GPU, from 0.0001 to 1, or a whole number",
        ),
        ("cpus: 1", "gpus: 0.00001", "9:19: resources.gpus: must be a share of one GPU, from 0.0001 to 1, or a whole"),
        (
            "replay: {}",
            f"replay: {{memory.capacity: {{randint: [1, {2**53 + 2}]}}}}",
            "7:43: strategies.replay.memory.capacity: must lie within 9007199254740992 of 0",
        ),
        (
            "replay: {}",
            "replay: {training.learning_rate: {uniform: [0.1, 1e300]}}",
            "7:52: strategies.replay.training.learning_rate: must lie within 1e+38 of 0 (got 1e+300)",
        ),
        ("batch_size: 32", "learning_rate: 1e39", f"4:27: training.learning_rate: must be at most {LARGEST:g}"),
    ],
)
def test_numbers_beyond_are_refused_at_their_place(schema: Any, old: str, new: str, expected: str) -> None:
    text = BASE.replace(old, new)
    assert text != BASE
    with pytest.raises(SpecError) as error:
        SweepSpec.parse(text, catalog(), "sweep.yaml")
    lines = [line for line in str(error.value).splitlines() if "there is no search" not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"sweep.yaml:{expected}"), lines
    assert list(schema.iter_errors(parse(text).data)), "the schema refuses it too"


@pytest.mark.parametrize("gpus", ["0", "0.25", "1", "1.0", "2", "8.0"])
def test_gpus_as_ray_has_them(schema: Any, gpus: str) -> None:
    text = BASE.replace("cpus: 1", f"gpus: {gpus}")
    assert SweepSpec.parse(text, catalog()).resources == ResourcesConfig(gpus=float(gpus))
    assert not list(schema.iter_errors(parse(text).data))


@pytest.mark.parametrize("text", ["1" * 5000, "0x" + "f" * 5000, f"-{2**64 + 1}"])
def test_integers_that_python_cannot_print_are_refused(text: str) -> None:
    with pytest.raises(
        SpecError, match=r"a\.yaml:1:4: a: (whole numbers must lie within 64 bits|is not a YAML 1.2 int)"
    ):
        parse(f"a: {text}", "a.yaml")


def test_ends_of_whole_ranges_stay_exact() -> None:
    """Beyond 2^53, where floats begin to round, they are refused; the mutant is the former rounding."""
    low, high = EXACT - 3, EXACT
    assert find({"randint": [low, high]}) == RandInt(low, high)
    assert int(float(high + 1)) == high, "what a float makes of the first number beyond"
    with pytest.raises(DistributionError, match="must lie within"):
        find({"randint": [low, high + 1]})


@pytest.mark.parametrize("word", ["uniform", "loguniform", "randint", "lograndint", "quniform", "choice"])
def test_a_distribution_reaches_both_ends_of_what_it_may(schema: Any, word: str) -> None:
    values = {"quniform": "[0.25, 0.75, 0.25]", "choice": "[1, 2]"}.get(word, "[1, 2]")
    path = "learning_rate" if word in ("uniform", "loguniform", "quniform") else "batch_size"
    text = BASE.replace("replay: {}", f"replay: {{training.{path}: {{{word}: {values}}}}}") + "search: {trials: 2}\n"
    assert SweepSpec.parse(text, catalog()).entries[0].space
    assert not list(schema.iter_errors(parse(text).data))
