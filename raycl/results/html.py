"""What a terminal shows, as a notebook shows it."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

WIDEST = 160
"""Columns of what is no terminal."""


def as_html(shown: RenderableType) -> str:
    """A ``pre`` element with the colours of the terminal in it."""
    console = Console(file=io.StringIO(), record=True, width=WIDEST, force_jupyter=False)
    console.print(shown)
    return console.export_html(inline_styles=True, code_format="<pre style='line-height:1.2'>{code}</pre>")
