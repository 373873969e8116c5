"""What changes the fingerprint of a class: what runs, and nothing else."""

from __future__ import annotations

import ast
import importlib
import linecache
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import raycl
from raycl.catalog import catalog
from raycl.spec.fingerprint import commit, fingerprint
from raycl.spec.syntax import Code, _bare
from raycl.trial.trainer import Trainer

METHOD = '''
"""A method."""

import math
from functools import cache, partial

import tinypackage.dotted
from raycl.strategies.base import Strategy
from tinypackage.sums import WEIGHTS, total


LIMIT = 3
TABLE = {"a": 1}
first, second = lambda x: x + 1, 0
third = lambda x: x + 2
tripled = partial(total, limit=3)


class Scale:
    def __init__(self, by):
        self.by = by


scale = Scale(10)


@cache
def kept():
    return 11


def made(strength):
    class Inner:
        def pull(self):
            return strength

    return Inner


Pulled = made(12)


class Base:
    def part(self):
        return 1


class Method(Base, Strategy):
    """Does something."""

    def loss(self, batch):
        # a comment
        return {"task": total(batch, LIMIT) + self.part()}

    def late(self):
        from tinypackage.late import delayed

        return delayed() + tinypackage.dotted.reached()

    def all(self):
        return TABLE["a"] + first(1) + third(1) + tripled([1]) + scale.by + kept() + Pulled().pull() + WEIGHTS[0]


def unused():
    return 5
'''
SUMS = "def total(batch, limit):\n    return sum(batch[:limit])\n\n\nWEIGHTS = [8]\n"
DOTTED = "def reached():\n    return 9\n"
LATE = "def delayed():\n    return 7\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "tinypackage"
    folder.mkdir()
    for name, text in (("__init__", ""), ("method", METHOD), ("sums", SUMS), ("late", LATE), ("dotted", DOTTED)):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "tinypackage"]:
        del sys.modules[name]


def named(folder: Path) -> str:
    """The fingerprint of the method as its files stand now."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tinypackage"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    linecache.clearcache()
    fingerprint.cache_clear()
    method = importlib.import_module("tinypackage.method")
    sys.dont_write_bytecode = before
    return fingerprint(method.Method)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("method", '"""Does something."""', '"""Does something else."""'),
        ("method", "# a comment", "# another comment"),
        ("method", "import math", "import math, json"),
        ("method", "return 5", "return 6"),
        ("method", "LIMIT = 3", "LIMIT = 1 + 2"),
        ("sums", "    return sum", "    # the sum\n    return sum"),
    ],
)
def test_what_does_not_run_changes_nothing(package: Path, file: str, old: str, new: str) -> None:
    before = named(package)
    path = package / f"{file}.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert named(package) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("method", "+ self.part()", "- self.part()"),
        ("method", "return 1", "return 2"),
        ("method", "LIMIT = 3", "LIMIT = 4"),
        ("sums", "return sum", "return 2 * sum"),
        ("late", "return 7", "return 8"),
        ("method", '{"a": 1}', '{"a": 2}'),
        ("method", "x + 1", "x - 1"),
        ("method", "x + 2", "x - 2"),
        ("method", "limit=3", "limit=4"),
        ("method", "Scale(10)", "Scale(20)"),
        ("method", "self.by = by", "self.by = -by"),
        ("method", "return 11", "return 12"),
        ("method", "made(12)", "made(13)"),
        ("sums", "WEIGHTS = [8]", "WEIGHTS = [9]"),
        ("dotted", "return 9", "return 10"),
    ],
)
def test_what_runs_changes_it_however_deep(package: Path, file: str, old: str, new: str) -> None:
    before = named(package)
    path = package / f"{file}.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert named(package) != before


def test_a_module_that_is_loaded_again_is_read_again(package: Path) -> None:
    before = named(package)
    (package / "method.py").write_text(METHOD.replace("return 1\n", "return 2\n"))
    module = importlib.reload(sys.modules["tinypackage.method"])
    assert fingerprint(module.Method) != before


CELL = """
class Method:
    def loss(self, batch):
        return PARTS[0] * {factor}
"""


def typed(factor: int, parts: list[int], cell: str = "") -> type:
    """A class of a module without a file; of a notebook's cell, whose text Python keeps by a name of its own."""
    module = ModuleType("typed_in")
    sys.modules["typed_in"] = module
    text = CELL.format(factor=factor)
    if cell:
        linecache.cache[cell] = (len(text), None, text.splitlines(keepends=True), cell)
    exec(compile(f"PARTS = {parts}", "<parts>", "exec"), vars(module))
    exec(compile(text, cell or "<stdin>", "exec"), vars(module))
    found: type = vars(module)["Method"]
    return found


@pytest.mark.parametrize("cell", ["", "<cell {}>"])
def test_code_without_a_file_is_told_apart(monkeypatch: pytest.MonkeyPatch, cell: str) -> None:
    monkeypatch.setitem(sys.modules, "typed_in", ModuleType("typed_in"))
    first, again = (fingerprint(typed(1, [1], cell.format(place))) for place in (1, 2))
    assert first == again
    assert fingerprint(typed(2, [1], cell.format(3))) != first
    if cell:
        assert fingerprint(typed(1, [2], cell.format(4))) != first, "a list that its methods read"


def test_mutant_a_value_shown_as_it_is_differs_between_processes() -> None:
    """Sets of words come in an order of each process's own; what is followed must not say so."""
    code = "from raycl.spec.syntax import plain_text; print({}(frozenset({{'task', 'domain', 'class', 'more'}})))"
    texts = {"plain_text": set[str](), "repr": set[str]()}
    for name, found in texts.items():
        for seed in range(4):
            command = [sys.executable, "-c", code.format(name)]
            environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
            found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(texts["plain_text"]) == 1 < len(texts["repr"])


def test_methods_of_raycl_differ_and_stay() -> None:
    known = catalog().strategies
    found = {name: fingerprint(known.get(name)) for name in known.names()}
    assert len(set(found.values())) == len(found)
    assert found["replay"] == fingerprint(known.get("replay"))


def test_the_loop_has_one() -> None:
    assert fingerprint(Trainer) not in (fingerprint(catalog().strategies.get("naive")), "")


def test_the_commit_is_of_raycl_and_not_of_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit.cache_clear()
    here = commit()
    monkeypatch.chdir(tmp_path)
    commit.cache_clear()
    assert commit() == here
    if (Path(raycl.__file__).parents[1] / ".git").exists():
        assert len(here.removesuffix("-dirty")) == 40
    monkeypatch.setenv("RAYCL_COMMIT", "abc")
    commit.cache_clear()
    assert commit() == "abc"
    commit.cache_clear()


NESTED = """
class A:
    \'\'\'Told.\'\'\'

    import os

    def f(self, x):
        "told"
        try:
            from a import b
        except ValueError:
            "told"
        else:
            "told"
            x = [lambda: "kept"]
        match x:
            case 1:
                import c
        return x
"""
BARE = """class A:

    def f(self, x):
        try:
            pass
        except ValueError:
            pass
        else:
            'told'
            x = [lambda: 'kept']
        match x:
            case 1:
                pass
        return x"""


def test_what_runs_is_told_without_a_change_to_the_tree_that_others_read() -> None:
    """Nor by way of a copy of it all: that took most of a fingerprint's time, in every process."""
    tree = ast.parse(NESTED)
    before, names = ast.dump(tree), {id(node) for node in ast.walk(tree) if isinstance(node, ast.expr)}
    assert Code.of(tree).text == BARE
    assert ast.dump(tree) == before
    assert {id(node) for node in ast.walk(_bare(tree)) if isinstance(node, ast.expr)} <= names
