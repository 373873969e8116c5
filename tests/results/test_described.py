"""Other programs read the data set as it lies there, by the lines that it brings along, and it says what it holds."""

from __future__ import annotations

import json
import re
import types
import typing
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel
from results.made_results import rows, spec

from raycl.catalog import catalog
from raycl.results import hyperparameters
from raycl.results.columns import MEANING, RANGES, UNITS
from raycl.results.described import COLUMNS, described
from raycl.results.hyperparameters import LIST_OR_NUMBER, WORD_OR_NUMBER
from raycl.results.reading import read_trials
from raycl.results.store import ResultsFolder
from raycl.spec.memory import MemoryConfig
from raycl.spec.training import TrainingConfig
from raycl.spec.trial import TrialSpec

Record = Callable[..., TrialSpec]


@pytest.fixture
def four(results: ResultsFolder, record: Record) -> ResultsFolder:
    """Four methods of different options: ``replay_share`` is a word in one and a number in another."""
    record(spec("ewc", options={"penalty": 2.0, "mode": "online"}), rows())
    record(spec("generative_replay", options={"replay_share": "tasks"}), rows(5))
    record(spec("hypernetwork_tir", options={"replay_share": 0.5, "beta": 0.1}), rows(2))
    record(spec("cnn", options={}, strategy="naive", model={"name": "cnn", "hidden": 16}), rows(1))
    return results


# -- readers without raycl -------------------------------------------------------------------------------------


def code(results: ResultsFolder, title: str) -> str:
    """The lines of a section of the folder's README."""
    text = Path(results.uri, "data", "README.md").read_text()
    found = re.search(rf"## {title}\n\n```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("program", ["pandas", "Polars", "DuckDB"])
def test_each_program_reads_every_column_by_the_lines_of_the_folder(
    four: ResultsFolder, program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(program.lower())
    four.collect()
    lines = code(four, program)
    assert len(lines.splitlines()) == 3
    monkeypatch.chdir(four.uri)
    names: dict[str, Any] = {}
    exec(lines, names)
    wanted = read_trials(four)
    assert list(names["trials"].columns) == wanted.column_names
    shown = capsys.readouterr().out
    for alias in ("ewc", "generative_replay", "hypernetwork_tir", "cnn"):
        assert alias in shown
    assert "0.65" in shown, "the average accuracy of generative replay: .6 and five points more"


def test_arrow_reads_what_each_column_means(
    four: ResultsFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    four.collect()
    monkeypatch.chdir(four.uri)
    exec(code(four, "What a column means"), {})
    assert "replay_share.word" in capsys.readouterr().out
    table = ds.dataset(Path(four.uri, "data", "trials")).to_table()
    assert table.to_pylist() == read_trials(four).to_pylist()
    said = {field.name: dict(field.metadata or {}) for field in table.schema}
    assert said["average_accuracy"][b"unit"] == b"share of 1"
    assert said["average_accuracy"][b"range"] == b"[0, 1]"
    assert said["average_accuracy"][b"meaning"].startswith(b"ACC: mean over the tasks learned")
    assert said["buffer_bytes"] == {
        b"meaning": MEANING["buffer_bytes"].encode(),
        b"unit": b"bytes",
        b"range": b"[0, inf]",
    }
    assert b"weight of replays" in said["hp.replay_share"][b"meaning"]
    assert said["hp.replay_share"][b"range"].endswith(b"[0, 1]")
    assert b"(0, " in said["hp.training.learning_rate"][b"range"]
    assert all(about.get(b"meaning") for about in said.values())
    stored = pq.read_metadata(Path(four.uri, "data", "trials", "all.parquet")).metadata
    assert json.loads(stored[COLUMNS.encode()])["average_accuracy"]["unit"] == "share of 1"
    cells = pq.read_schema(Path(four.uri, "data", "cells", "all.parquet"))
    assert cells.field("train_task").metadata[b"range"] == b"[-1, inf]"


def test_words_and_numbers_have_columns_of_their_own(four: ResultsFolder) -> None:
    for _ in range(2):
        table = read_trials(four)
        by_alias = {trial["alias"]: trial for trial in table.to_pylist()}
        assert table.schema.field("hp.replay_share").type == pa.float64()
        assert [by_alias[name]["hp.replay_share"] for name in ("generative_replay", "hypernetwork_tir")] == [None, 0.5]
        words = [by_alias[name]["hp.replay_share.word"] for name in ("generative_replay", "hypernetwork_tir")]
        assert words == ["tasks", None]
        assert [by_alias[name]["hp.model.hidden"] for name in ("ewc", "cnn")] == ["[20, 20]", "16"]
        four.collect()


def test_a_folder_that_grows_has_all_columns_in_its_only_file(four: ResultsFolder, record: Record) -> None:
    four.collect()
    before = ds.dataset(Path(four.uri, "data", "trials")).schema.names
    record(spec("lwf", options={"temperature": 2.0}), rows(1))
    assert ds.dataset(Path(four.uri, "data", "trials")).count_rows() == 4, "whole as it was, till it is replaced"
    four.collect()
    assert list(four.files.sizes("data/trials")) == ["all.parquet"]
    table = ds.dataset(Path(four.uri, "data", "trials")).to_table()
    assert table.num_rows == 5
    assert set(table.column_names) - set(before) == {"hp.temperature"}


def test_a_table_of_before_is_settled() -> None:
    """Its columns took the types of what it held."""
    old = pa.table(
        {
            "trial": ["a", "b", "c"],
            "hp.replay_share": ["tasks", "0.5", None],
            "hp.memory.capacity": ["200", "auto", "50"],
            "hp.model.hidden": [1, 2, 3],
            "hp.decay": ["auto", "auto", None],
        }
    )
    found = hyperparameters.settled(old).to_pydict()
    assert found == {
        "trial": ["a", "b", "c"],
        "hp.replay_share": [None, 0.5, None],
        "hp.replay_share.word": ["tasks", None, None],
        "hp.memory.capacity": [200, None, 50],
        "hp.memory.capacity.word": [None, "auto", None],
        "hp.model.hidden": ["1", "2", "3"],
        "hp.decay.word": ["auto", "auto", None],
    }
    assert hyperparameters.settled(hyperparameters.settled(old)).to_pydict() == found


# -- every option of every registry ----------------------------------------------------------------------------


def kinds(annotation: Any, path: str) -> Iterator[tuple[str, str]]:
    """(path, kind) of every value that may stand there."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from kinds(typing.get_args(annotation)[0], path)
    elif origin in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from kinds(part, path)
    elif origin is Literal:
        yield from ((path, type(value).__name__) for value in typing.get_args(annotation))
    elif origin in (tuple, list):
        yield path, "list"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from options(annotation, f"{path}.")
    elif annotation is not type(None):
        yield path, annotation.__name__


def options(block: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in block.model_fields.items():
        yield from kinds(field.annotation, prefix + name)


def every_option() -> dict[str, set[str]]:
    known = catalog()
    blocks = [("", known.strategies.get(name).Config) for name in known.strategies.names()]
    blocks += [("model.", known.models.get(name).Config) for name in known.models.names()]
    blocks += [("stream.", known.streams.get(name).Config) for name in known.streams.names()]
    found: dict[str, set[str]] = defaultdict(set)
    for prefix, block in [*blocks, ("training.", TrainingConfig), ("memory.", MemoryConfig)]:
        for path, kind in options(block, prefix):
            found[path].add(kind)
    return found


def mixed() -> tuple[set[str], set[str]]:
    """Options that are words and numbers, and lists and numbers; any other mixture is none that a column can hold."""
    words, lists = set(), set()
    for path, found in every_option().items():
        if len(found) == 1 or found == {"str", "list"}:
            continue
        numbers, others = found & {"int", "float"}, found - {"int", "float"}
        assert len(numbers) == 1, f"{path}: {found}"
        assert others in ({"str"}, {"list"}), f"{path}: {found}"
        (words if others == {"str"} else lists).add(path)
    return words, lists


def test_every_option_of_every_registry_has_one_type() -> None:
    assert len(every_option()) > 150
    assert mixed() == (WORD_OR_NUMBER, LIST_OR_NUMBER)


def test_the_check_finds_an_option_that_is_a_word_in_a_new_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: a method that brings a word to an option which is a number elsewhere."""

    class Config(BaseModel):
        temperature: float | Literal["auto"]

    class Method:
        pass

    Method.Config = Config  # type: ignore[attr-defined]
    monkeypatch.setitem(catalog().strategies._registered, "another", Method)
    assert mixed()[0] - WORD_OR_NUMBER == {"temperature"}


def test_every_option_of_every_method_says_something() -> None:
    known = catalog()
    names = [f"hp.{path}" for path in every_option()]
    table = pa.schema([pa.field(name, pa.string()) for name in names])
    said = described(table, known.strategies.names(), known.models.names(), known.streams.names())
    silent = [
        field.name for field in said if "an option of a method" in (field.metadata or {}).get(b"meaning", b"").decode()
    ]
    assert silent == []
    assert set(UNITS) <= {*MEANING, *UNITS}
    assert RANGES.keys() >= UNITS.keys()
