"""A user's own files as modules: one that ``--import`` names, and those beside it that it uses, as a script finds them.

A file is read once, and kept as text: workers import the same text under the same names, wherever the file lies and
whatever has become of it since.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import decode_source, find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from raycl.errors import UnknownName


@dataclass(frozen=True)
class OwnFile:
    """A file of the user's, as it was when it was imported.

    Attributes:
        folder: where modules beside it are looked for.
    """

    path: str
    text: str
    folder: str


FILES: dict[str, OwnFile] = {}
"""Module name -> the file that it is made of."""


def import_code(given: str) -> ModuleType:
    """Import a user's file (``my_method.py``) or module (``package.module``), so that it registers what it defines.

    Raises:
        UnknownName: there is none, or it cannot be imported; the message names the error and its line.
    """
    try:
        return _import_file(Path(given).expanduser().resolve()) if given.endswith(".py") else import_module(given)
    except Exception as error:  # whatever a user's code raises, it is told in one line
        raise UnknownName(f"--import {given}: {told(error)}") from error


def know(files: Mapping[str, OwnFile]) -> None:
    """Let this process import files that another one has read.

    Raises:
        UnknownName: a name is taken here.
    """
    for name, file in files.items():
        if _taken(name, file.path):
            raise UnknownName(f"a module {name!r} is imported already; rename the file")
    FILES.update(files)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def package(module: str) -> str:
    """What a module belongs to: its package, or the folder of a user's files."""
    top = module.partition(".")[0]
    return FILES[top].folder if top in FILES else top


def told(error: Exception) -> str:
    """An error in one line, with the line of the user's code that raised it."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<") and not Path(file).is_relative_to(Path(__file__).parents[1]):
            place = f" (line {trace.tb_lineno} of {Path(file).name})"
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        return f"{error.msg} (line {error.lineno} of {Path(error.filename or '').name})"
    return f"{error}" if isinstance(error, UnknownName) else f"{type(error).__name__}: {error}{place}"


def _taken(name: str, path: str) -> bool:
    """Whether a name stands for another module than the one of this file."""
    if name in FILES:
        return FILES[name].path != path
    return name in sys.modules and getattr(sys.modules[name], "__file__", None) != path


def _import_file(path: Path) -> ModuleType:
    name = path.stem.replace(".", "_")
    if not path.is_file():
        raise UnknownName("there is no such file")
    before = set(FILES)
    if name not in FILES or FILES[name].path != str(path):
        know(_with_those_beside(name, path))
    try:
        return import_module(name)
    except BaseException:
        for new in FILES.keys() - before:
            del FILES[new]
            sys.modules.pop(new, None)
        raise


def _with_those_beside(name: str, path: Path) -> dict[str, OwnFile]:
    """A file and all beside it that it imports, wherever in its code, and what these import."""
    found: dict[str, OwnFile] = {}
    open_ = {name: path}
    while open_:
        name, file = open_.popitem()
        text = decode_source(file.read_bytes())
        found[name] = OwnFile(str(file), text, str(path.parent))
        for used in _imported(ast.parse(text, str(file))):
            open_ |= {each: at for each, at in _beside(used, file, path.parent).items() if each not in found}
    return found


def _imported(tree: ast.AST) -> Iterator[str]:
    """Modules and packages that code imports by their full names; raycl is no file of a user's, wherever it lies."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        yield from {name.partition(".")[0] for name in names} - {"raycl"}


def _beside(name: str, importing: Path, folder: Path) -> dict[str, Path]:
    """The files of a module or package in the folder; none where it is not there.

    Raises:
        UnknownName: it is there, but its name means something else in this process.
    """
    module, inside = folder / f"{name}.py", folder / name / "__init__.py"
    file = inside if inside.is_file() else module
    if not file.is_file():
        return {}
    known = find_spec(name)
    if known is not None and known.origin is not None and Path(known.origin).resolve() != file:
        raise UnknownName(
            f"{importing.name} imports {name!r}, which there is beside it, but also at {known.origin}; "
            f"rename {file.relative_to(folder)}"
        )
    if file == module:
        return {name: file}
    inner = {each.relative_to(folder).with_suffix("").parts: each for each in (folder / name).rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): each for parts, each in inner.items()}


class _Finder(MetaPathFinder, ExecutionLoader):
    """Makes modules of :data:`FILES`."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return spec_from_file_location(name, FILES[name].path, loader=self) if name in FILES else None

    def is_package(self, name: str) -> bool:
        return Path(FILES[name].path).name == "__init__.py"

    def get_filename(self, name: str) -> str:
        return FILES[name].path

    def get_source(self, name: str) -> str:
        return FILES[name].text


_FINDER = _Finder()
