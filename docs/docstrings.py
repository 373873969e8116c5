"""Docstrings as mkdocstrings reads them: roles become code, and ``Example:`` one of its sections.

MkDocs loads this through ``mkdocs.yml``; raycl's docstrings follow Sphinx's roles, as editors know them.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class Plain(griffe.Extension):
    """Rewrites each docstring before it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
        text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
        obj.docstring.value = re.sub(r"^(?!- |  )(.+)\n(?=- )", r"\1\n\n", text, flags=re.MULTILINE)  # or no list
