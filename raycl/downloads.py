"""Where data sets and pretrained weights lie, and whether what is absent may be fetched from its publisher."""

from __future__ import annotations

import os
from pathlib import Path

from raycl.addresses import expanded

DOWNLOAD_VARIABLE = "RAYCL_DOWNLOAD"
"""Environment variable that allows downloads when it is ``1``."""


def allowed() -> bool:
    """Whether the user has allowed downloads."""
    return os.environ.get(DOWNLOAD_VARIABLE) == "1"


def data_folder(root: Path | None) -> Path | None:
    """A data root with ``~`` as the home folder: a shell does not see to it in ``--data-root=~/data`` or in quotes.

    Raises:
        PathError: ``~name`` is nobody's home here.
    """
    return None if root is None else expanded(root)
