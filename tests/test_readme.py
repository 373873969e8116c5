"""What the README shows is true: its sweep file is valid, its method works, its files exist.

What it says of commands is held to them by :mod:`test_docs`, with those of the other pages.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from support import matrix, trial

import raycl
from raycl.catalog import catalog
from raycl.spec.own_files import FILES, import_code
from raycl.spec.sweep import SweepSpec
from raycl.strategies.registry import STRATEGIES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(language: str) -> str:
    """The only fenced block of a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return found


def test_the_sweep_file_is_valid() -> None:
    sweep = SweepSpec.parse(block("yaml"), catalog())
    assert sweep.warnings == ()
    assert {entry.alias: bool(entry.space) for entry in sweep.entries} == {
        "naive": True,
        "joint": False,
        "ewc": True,
        "replay": True,
        "replay_balanced": True,
    }


def test_the_method_of_the_readme_learns(tmp_path: Path) -> None:
    (tmp_path / "method_of_the_readme.py").write_text(block("python"))
    module = import_code(str(tmp_path / "method_of_the_readme.py"))
    try:
        learned = matrix(trial("half", "task"))
        assert learned.average_accuracy() > 0.6
        assert raycl.strategy("half")(module.Half) is module.Half
    finally:
        del STRATEGIES._registered["half"], FILES["method_of_the_readme"], sys.modules["method_of_the_readme"]


def test_every_linked_file_exists() -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^    make (\w+)", README, re.MULTILINE))
    assert {"quickstart", "test"} == named & targets == named
