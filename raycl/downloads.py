"""Whether what is absent may be fetched from its publisher: data sets, pretrained weights."""

from __future__ import annotations

import os

DOWNLOAD_VARIABLE = "RAYCL_DOWNLOAD"
"""Environment variable that allows downloads when it is ``1``."""


def allowed() -> bool:
    """Whether the user has allowed downloads."""
    return os.environ.get(DOWNLOAD_VARIABLE) == "1"
