"""A user's file finds what lies beside it, here and where there is no file, and its code is part of the fingerprint."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycl.catalog import catalog
from raycl.distributed.carried import packed, unpacked
from raycl.errors import UnknownName
from raycl.spec import own_files
from raycl.spec.own_files import FILES, import_code

METHOD = """
import raycl
import scaling.by_half
from beside_it import DOUBLE as TWICE
from raycl.strategies.naive import Naive


@raycl.strategy("scaled")
class Scaled(Naive):
    paper = "nobody"

    def factor(self):
        import late_beside

        return TWICE * scaling.by_half.HALF * late_beside.factor()
"""
BESIDE = {
    "beside_it.py": "from further_beside import ONE\nDOUBLE = 2 * ONE\n",
    "further_beside.py": "ONE = 1\nUNUSED = 5\n",
    "late_beside.py": "import scaling\n\n\ndef factor():\n    return 3\n",
    "scaling/__init__.py": "",
    "scaling/by_half.py": "from .deeper.halves import HALF\n",
    "scaling/deeper/__init__.py": "",
    "scaling/deeper/halves.py": "HALF = 0.5\n",
    "never_used.py": "raise RuntimeError('nobody imports this')\n",
}


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """What a test imports is gone after it."""
    yield
    forget()


def forget() -> None:
    for name in FILES:
        sys.modules.pop(name, None)
    FILES.clear()
    catalog().strategies._registered.clear()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, text in {"scaled.py": METHOD, **BESIDE}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def code(place: Path) -> str:
    """The fingerprint of the method, imported anew."""
    forget()
    import_code(str(place / "scaled.py"))
    return catalog().strategies.code("scaled")


def factor() -> float:
    method = catalog().strategies.get("scaled")
    return float(method.factor(None))


def test_a_file_finds_modules_and_packages_beside_it_and_reads_no_others(place: Path) -> None:
    import_code(str(place / "scaled.py"))
    assert factor() == 2 * 0.5 * 3
    assert set(FILES) == {
        *("scaled", "beside_it", "further_beside", "late_beside", "scaling", "scaling.by_half"),
        *("scaling.deeper", "scaling.deeper.halves"),
    }
    assert str(place) not in sys.path, "a file of any other name in that folder stands for nothing"


def test_a_file_that_was_imported_beside_another_is_the_same_module(place: Path) -> None:
    import_code(str(place / "scaled.py"))
    assert import_code(str(place / "beside_it.py")) is sys.modules["beside_it"]
    assert import_code(str(place / "late_beside.py")).factor() == 3


CHANGES = {
    "a module beside": ("further_beside.py", "ONE = 1", "ONE = 2", True),
    "a module that a function imports": ("late_beside.py", "return 3", "return 4", True),
    "a package beside": ("scaling/deeper/halves.py", "0.5", "0.25", True),
    "what is not used": ("further_beside.py", "UNUSED = 5", "UNUSED = 6", False),
    "a comment": ("beside_it.py", "DOUBLE", "# doubled\nDOUBLE", False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_covers_what_is_used_of_modules_beside(place: Path, change: str) -> None:
    file, before, after, counts = CHANGES[change]
    first = code(place)
    assert code(place) == first
    (place / file).write_text((place / file).read_text().replace(before, after))
    assert (code(place) != first) == counts


WORKER = """
import json, sys
from pathlib import Path
from raycl.distributed.carried import unpacked
for _ in range(2):
    known = unpacked(Path(sys.argv[1]).read_bytes())
method = known.strategies.get("scaled")
print(json.dumps([method.factor(None), method.__module__, known.strategies.code("scaled")]))
"""


def test_another_process_imports_the_same_text_though_the_files_are_gone(place: Path, tmp_path: Path) -> None:
    expected = code(place)
    (tmp_path / "packed").write_bytes(packed(catalog(), "strategies"))
    for name in ("scaled.py", *BESIDE):
        (place / name).unlink()
    (place / "scaled.py").write_text("raise RuntimeError('this is read again')\n")
    done = subprocess.run(
        [sys.executable, "-c", WORKER, tmp_path / "packed"], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [3.0, "scaled", expected]


def test_a_name_that_means_something_else_is_told(place: Path, tmp_path: Path) -> None:
    (place / "colorsys.py").write_text("")
    (place / "clashing.py").write_text("import colorsys\n")
    with pytest.raises(UnknownName, match=r"clashing.py imports 'colorsys', .* also at .*; rename colorsys.py"):
        import_code(str(place / "clashing.py"))
    import_code(str(place / "scaled.py"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "beside_it.py").write_text("DOUBLE = 200\n")
    (other / "second.py").write_text("import beside_it\n")
    with pytest.raises(UnknownName, match=r"second.py imports 'beside_it', which there is beside it, but also at"):
        import_code(str(other / "second.py"))
    with pytest.raises(UnknownName, match="a module 'beside_it' is imported already; rename the file"):
        import_code(str(other / "beside_it.py"))


def test_an_error_beside_is_told_with_its_line_and_nothing_of_it_is_left(place: Path) -> None:
    (place / "further_beside.py").write_text("\nONE = open('no such file')\n")
    with pytest.raises(UnknownName, match=r"FileNotFoundError: .* \(line 2 of further_beside.py\)"):
        import_code(str(place / "scaled.py"))
    assert FILES == {}
    assert "beside_it" not in sys.modules
    (place / "further_beside.py").write_text("ONE = = 1\n")
    with pytest.raises(UnknownName, match=r"invalid syntax \(line 1 of further_beside.py\)"):
        import_code(str(place / "scaled.py"))
    (place / "further_beside.py").write_text("ONE = 1\n")
    import_code(str(place / "scaled.py"))
    assert factor() == 3


def test_what_cannot_be_imported_on_a_worker_is_told_with_the_remedy(place: Path) -> None:
    (place / "further_beside.py").write_text(f"ONE = len(open({str(place / 'one')!r}).read())\n")
    (place / "one").write_text("1")
    import_code(str(place / "scaled.py"))
    data = packed(catalog())
    for name in FILES:
        sys.modules.pop(name, None)
    (place / "one").unlink()
    with pytest.raises(UnknownName, match=r"cannot be imported on a worker: FileNotFoundError: .* \(line 1 of fur"):
        unpacked(data)


def test_what_cannot_travel_is_told_with_the_remedy() -> None:
    class Holds:
        lock = threading.Lock()

    catalog().strategies.register("holds", Holds, "0" * 16)
    with pytest.raises(UnknownName, match=r"cannot be sent to workers: .*; make what holds a file"):
        packed(catalog())


def test_raycl_beside_a_file_is_no_file_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "raycl").mkdir()
    (tmp_path / "raycl" / "__init__.py").write_text("raise RuntimeError('another raycl')\n")
    (tmp_path / "mine_alone.py").write_text("import raycl\n")
    assert import_code(str(tmp_path / "mine_alone.py")).raycl is sys.modules["raycl"]
    assert list(own_files.FILES) == ["mine_alone"]
