"""What changes the fingerprint of a class: what runs, and nothing else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import raycl
from raycl.catalog import catalog
from raycl.fingerprint import _definitions, commit, fingerprint
from raycl.trainer import Trainer

METHOD = '''
"""A method."""

import math

from raycl.strategies.base import Strategy
from tinypackage.sums import total


LIMIT = 3


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

        return delayed()


def unused():
    return 5
'''
SUMS = "def total(batch, limit):\n    return sum(batch[:limit])\n"
LATE = "def delayed():\n    return 7\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "tinypackage"
    folder.mkdir()
    for name, text in (("__init__", ""), ("method", METHOD), ("sums", SUMS), ("late", LATE)):
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
    import linecache

    linecache.clearcache()
    _definitions.cache_clear()
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
    ],
)
def test_what_runs_changes_it_however_deep(package: Path, file: str, old: str, new: str) -> None:
    before = named(package)
    path = package / f"{file}.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert named(package) != before


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
