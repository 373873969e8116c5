"""The picture of the table that ends the quick start, from its results folder.

python docs/quickstart_picture.py results/quickstart
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

from raycl.results.tables import comparison

WIDTH = 126
PICTURE = Path(__file__).with_name("quickstart.svg")


def main(folder: str) -> None:
    """Write the picture."""
    console = Console(file=io.StringIO(), record=True, width=WIDTH, force_jupyter=False)
    console.print(comparison(folder))
    console.save_svg(str(PICTURE), title="raycl run sweeps/quickstart.yaml", unique_id="quickstart")


if __name__ == "__main__":
    main(sys.argv[1])
