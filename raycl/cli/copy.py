"""What ``raycl copy`` does: lay a sweep file that comes with raycl beside the user, to be changed."""

from __future__ import annotations

import shlex
from pathlib import Path

from raycl.cli.shipped import one
from raycl.cli.terminal import tell
from raycl.errors import PathError


def copy(name: str, file: Path | None, overwrite: bool) -> None:
    """Copy the sweep of a name, and say how to run the copy.

    Args:
        file: what to write, or the folder to write into; default: the sweep's own file name, in the working directory.

    Raises:
        UnknownName: no such sweep comes with raycl.
        PathError: the file stands there already and is not to be overwritten, or it cannot be written.
    """
    source = one(name)
    target = Path(source.name) if file is None else file
    if target.is_dir():
        target /= source.name
    try:
        with target.open("wb" if overwrite else "xb") as copied:
            copied.write(source.read_bytes())
    except FileExistsError as error:
        raise PathError(f"{target}: stands there already; give another FILE, or --force to overwrite it") from error
    except OSError as error:
        raise PathError(f"{target}: cannot be written: {error.strerror}; give another FILE") from error
    tell(f"{target}: a copy of {name}; `raycl run {shlex.quote(str(target))}` runs it")
