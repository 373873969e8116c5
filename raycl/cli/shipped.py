"""The sweep files that come with raycl: where they lie, what each asks, and one of them by its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

import raycl
from raycl.errors import UnknownName, nearest

SWEEP_SUFFIX = ".yaml"


def shipped() -> dict[str, Path]:
    """Every sweep file by its name: its path below ``sweeps/`` without the suffix, as in ``papers/gem2017_mnist``."""
    folder = _folder()
    files = [(file.relative_to(folder).with_suffix("").as_posix(), file) for file in folder.rglob(f"*{SWEEP_SUFFIX}")]
    return dict(sorted(files, key=lambda named: (named[0].count("/"), named[0])))


def one(name: str) -> Path:
    """The sweep file of a name.

    Raises:
        UnknownName: none has it; the message suggests the nearest.
    """
    known = shipped()
    if name not in known:
        raise UnknownName(
            f"no sweep {name!r} comes with raycl{_suggestion(name, known)} (`raycl ls sweeps` lists them)"
        )
    return known[name]


def resolved(file: Path) -> Path:
    """The user's file where there is one, else the sweep that comes with raycl and has this name.

    What ends in ``.yaml`` or begins at the root is the user's, there or not. A folder is no sweep file: results may lie
    in one of this name.

    Raises:
        UnknownName: there is neither.
    """
    if file.suffix == SWEEP_SUFFIX or file.is_absolute() or _is_file(file):
        return file
    name, known = file.as_posix(), shipped()
    if name in known:
        return known[name]
    if _exists(file):
        return file  # reading it tells what is wrong with it
    raise UnknownName(
        f"there is no file {str(file)!r}, and no sweep of that name comes with raycl{_suggestion(name, known)} "
        "(`raycl ls sweeps` lists them)"
    )


def listing() -> RenderableType:
    """All names, each with the question that its sweep asks."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("question")
    for name, file in shipped().items():
        table.add_row(Text(name), Text(question(file)))
    return table


def heading(name: str) -> RenderableType:
    """All that one sweep says of itself: question, command, figures to expect, and cost.

    Raises:
        UnknownName: there is no such sweep.
    """
    return Text("\n".join(_comment(one(name))))


def question(file: Path) -> str:
    """The first paragraph of a sweep file's comment, on one line."""
    lines = _comment(file)
    end = lines.index("") if "" in lines else len(lines)
    return " ".join(lines[:end])


def _folder() -> Path:
    """Inside the package where it came in a wheel, beside it in a working copy."""
    package = Path(raycl.__file__).parent
    inside = package / "sweeps"
    return inside if inside.is_dir() else package.parent / "sweeps"


def _comment(file: Path) -> list[str]:
    """The lines before the first that is no comment, without their signs."""

    def lines() -> Iterator[str]:
        for line in file.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                return
            yield line.removeprefix("#").removeprefix(" ")

    return list(lines())


def _suggestion(name: str, known: dict[str, Path]) -> str:
    """Who leaves the folder out means the sweep in it: ``ewc`` is far from ``methods/ewc`` by its letters."""
    same = [other for other in known if other.endswith(f"/{name}")]
    return f"; did you mean {same[0]!r}?" if same else nearest(name, known)


def _is_file(path: Path) -> bool:
    return _exists(path) and not path.is_dir()  # a pipe may hold a sweep too


def _exists(path: Path) -> bool:
    """Whether something stands there, or may: what cannot be looked at is told by who reads it."""
    try:
        return path.exists()
    except OSError:
        return True
