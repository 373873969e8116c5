"""Standard output and error as they are: of any width and encoding, full, or with a reader that has left."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from raycl.addresses import shown
from raycl.errors import OutputError

PIPED = 128
"""Columns of what goes to a file or a pipe, unless ``COLUMNS`` says otherwise."""
PLAIN = str.maketrans({"±": "+/-", "†": "*", "‡": "#", "…": "...", "─": "-", "≥": ">=", "≤": "<=", "→": "->"})
"""For encodings that lack a sign; what is not here becomes a question mark."""

log = logging.getLogger(__name__)


def standard_output(goes_on: bool = False) -> Console:
    """Where tables for people go. A file or a pipe has no width of its own that would cut them short.

    A reader that leaves (``| head -1``) ends nothing: what follows is written nowhere.

    Args:
        goes_on: output that cannot be written is said once on standard error and then left out, as there is more to do
            than to print; without it, :class:`OutputError` is raised.
    """
    return _console(Output(sys.stdout, goes_on), PIPED)


def standard_error() -> Console:
    """Where complaints go; one that cannot be written is left out."""
    return _console(Output(sys.stderr, goes_on=True), None)


def tell(text: str) -> None:
    """Write one line to standard output as it is."""
    standard_output().print(text, markup=False, highlight=False, soft_wrap=True)


def emit(text: str) -> None:
    """Write data to standard output, with no sign added, left out or taken for a mark."""
    Output(sys.stdout).write(text)


def warn(notes: Iterable[str]) -> None:
    """Write lines to standard error, where they are no part of what is printed."""
    console = standard_error()
    for note in notes:
        console.print(f"warning: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)


class Complaints(logging.Handler):
    """Writes warnings where complaints go, without the passwords of the addresses in them."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = shown(self.format(record))
            standard_error().print(text, markup=False, highlight=False, soft_wrap=True)
        except Exception:  # as logging's own do; a message that cannot be made ends nothing
            self.handleError(record)


class Output:
    """A text stream that takes any text and bears the loss of its reader.

    Raises:
        OutputError: on writing, where the stream cannot be written and ``goes_on`` is not set.
    """

    def __init__(self, stream: IO[str] | None, goes_on: bool = False) -> None:
        self._stream = stream
        self._goes_on = goes_on
        self._lost = stream is None  # closed by whoever started this process
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        if not self._lost and self._stream is not None:
            try:
                self._stream.write(written_as(text, self.encoding))
            except (OSError, ValueError) as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if not self._lost and self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def isatty(self) -> bool:
        return not self._lost and self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError(errno.EBADF, "the stream is closed")
        return self._stream.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_stream"], name)

    def _lose(self, error: Exception) -> None:
        """Write nowhere from now on; also at the interpreter's end, which flushes what is left."""
        self._lost = True
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
        except (OSError, ValueError):  # not a file of the system's, or closed
            pass
        if isinstance(error, BrokenPipeError):
            return
        told = f"output cannot be written ({getattr(error, 'strerror', None) or error}); send it elsewhere"
        if not self._goes_on:
            raise OutputError(told) from error
        log.warning("%s", told)


def written_as(text: str, encoding: str) -> str:
    """The text in signs that an encoding has; file names that are no text are marked."""
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        return text.translate(PLAIN).encode(encoding, "replace").decode(encoding)


class _Console(Console):
    """Lays strings out in the signs in which they will be written, so that columns stay straight."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(written_as(text, self.encoding), **options)


def _console(stream: Output, piped: int | None) -> Console:
    columns = os.environ.get("COLUMNS", "")
    given = int(columns) if columns.isdigit() and int(columns) > 0 else None
    kept = {name: value for name, value in os.environ.items() if name != "COLUMNS" or given}
    console = _Console(file=stream, _environ=kept)  # type: ignore[arg-type]
    if console.is_terminal or given or piped is None:
        return console
    return _Console(file=stream, width=piped, _environ=kept)  # type: ignore[arg-type]
