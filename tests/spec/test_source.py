"""YAML 1.2 scalars, places, and what is refused."""

from __future__ import annotations

import math

import pytest
import yaml

from raycl.errors import SpecError
from raycl.spec.source import Place, parse, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1e10", 1e10),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5e+3", -1500.0),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("Off", "Off"),
        ("true", True),
        ("False", False),
        ("1:30", "1:30"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("0b1", "0b1"),
        ("=", "="),
        ("-", None),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    if text == "-":  # a list of nothing, not a scalar
        assert parse("a:\n  -").data["a"] == [None]
        return
    found = parse(f"a: {text}").data["a"]
    assert found == value
    assert type(found) is type(value)


def test_the_loader_of_yaml_1_1_would_fail_these() -> None:
    loaded = yaml.safe_load("{a: 1e-3, b: no, c: 1:30, d: 010, e: 2024-01-01}")
    ours = parse("{a: 1e-3, b: no, c: 1:30, d: 010, e: 2024-01-01}").data
    assert all(loaded[key] != ours[key] for key in ours)


def test_infinity_and_nan_are_numbers() -> None:
    data = parse("{a: .inf, b: -.INF, c: .nan}").data
    assert (data["a"], data["b"]) == (math.inf, -math.inf)
    assert math.isnan(data["c"])


def test_places_of_keys_and_values() -> None:
    source = parse("a:\n  b: [1, {c: 2}]\n")
    assert source.keys["a",] == Place(1, 1)
    assert source.keys["a", "b"] == Place(2, 3)
    assert source.values["a", "b", 0] == Place(2, 7)
    assert source.values["a", "b", 1, "c"] == Place(2, 14)
    assert source.place(("a", "b", 1, "missing")) == Place(2, 10)


def test_anchors_stand_for_their_value() -> None:
    assert parse("a: &x {p: 1}\nb: *x").data == {"a": {"p": 1}, "b": {"p": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml:3:1: a: duplicate key, first given at 1:1"),
        ("a: {b: 1, b: 2}", "x.yaml:1:11: a.b: duplicate key, first given at 1:5"),
        ("a: !!python/object/apply:os.system ['true']", "x.yaml:1:4: a: tags are not allowed"),
        ("a: !!python/name:os.system", "x.yaml:1:4: a: tags are not allowed"),
        ("a: !mine 3", "x.yaml:1:4: a: tags are not allowed; remove !mine"),
        ("a: !!int x", "x.yaml:1:4: a: is not a YAML 1.2 int"),
        ("a: 1\n---\nb: 2", "x.yaml:2:1: syntax: one file holds one sweep"),
        ("a: [1, 2", "x.yaml:1:9: syntax: while parsing a flow sequence"),
        ("a: 1\n b: 2", "x.yaml:2:3: syntax: mapping values are not allowed here"),
        ("a:\n\t- 1", "x.yaml:2:1: syntax: "),
        ("a: *x", "x.yaml:1:4: syntax: found undefined alias 'x'"),
        ("a: \x01", "x.yaml:1:4: syntax: this character"),
        ("1: a", "x.yaml:1:1: 1: keys must be text"),
        ("[1]: a", "x.yaml:1:1: ?: keys must be text"),
        ("a: &x {b: 1}\nc: {<<: *x}", "x.yaml:2:5: c.<<: YAML 1.2 has no merge keys"),
        ("a: &x [*x]", "x.yaml:1:4: a.0: aliases may not contain themselves"),
        ("- 1", "x.yaml:1:1: file: must hold a mapping"),
        ("", "x.yaml:1:1: file: must hold a mapping"),
        ("a: " + "[" * 5000, "syntax: blocks are nested too deeply"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        parse(text, "x.yaml")
    assert message in str(error.value)


def test_aliases_of_aliases_end_before_memory_does() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(SpecError, match="at most 5,000 keys and values"):
        parse("\n".join(lines))


def test_all_refusals_come_at_once() -> None:
    with pytest.raises(SpecError) as error:
        parse("a: 1\na: 2\nb: !x 3\n4: 5")
    assert [(problem.line, problem.column) for problem in error.value.problems] == [(2, 1), (3, 4), (4, 1)]


def test_files_that_cannot_be_read(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        read(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(SpecError, match="must be UTF-8"):
        read(tmp_path / "latin.yaml")
